"""Plays a capacity policy against a recorded series: the physics of DESIGN.md §7, in whole microseconds.

Every tick: capacity falls, losses are booked, the policy decides, changed membership stalls, work advances. The engine
never chooses; an answer outside what the world offers is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.policy.capacity.view import Allocation, CapacityPolicy, CapacityView, Decision, LossReading
from orchestrator.sim.course import Course
from orchestrator.sim.offers import Offers
from orchestrator.sim.world import US_PER_S, World


class IllegalAllocationError(ValueError):
    """A policy named more devices than there are, or a number that is no count: a bug of the policy."""


@dataclass(slots=True)
class Books:
    """Device-microseconds and counts of one run so far. Paid time = useful + stall + lost + idle, exactly."""

    spot_us: int = 0
    on_demand_us: int = 0
    useful_us: int = 0
    stall_us: int = 0
    lost_us: int = 0
    idle_us: int = 0
    cost: int = 0
    carbon: int = 0
    resizes: int = 0
    preempted: int = 0

    def balanced(self) -> bool:
        """The conservation law every run must keep."""
        return self.spot_us + self.on_demand_us == self.useful_us + self.stall_us + self.lost_us + self.idle_us


@dataclass(frozen=True, slots=True)
class TickRecord:
    """What happened in one tick, for plots and explanations; work, cost and carbon are totals at its end."""

    available: int
    spot: int
    on_demand: int
    stalled_us: int
    preempted: int
    done_us: int
    cost: int
    carbon: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Run:
    """A finished simulation. `finished_us` counts from the start; None when the work was not done in time."""

    world: World
    policy: str
    books: Books
    finished_us: int | None
    ticks: tuple[TickRecord, ...]


@dataclass(slots=True)
class _Held:
    """What the job holds between ticks, and how much of its stall is left."""

    spot: tuple[int, ...]
    on_demand: int = 0
    stall_left_us: int = 0

    @property
    def total(self) -> int:
        return sum(self.spot) + self.on_demand


@dataclass(slots=True)
class _Window:
    """The rows and the past a policy may see, in buffers of their own: the future is not in them yet."""

    rows: np.ndarray
    past: np.ndarray
    seen: int = field(default=0)

    def show(self, row: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Append this tick's row; return read-only (seen, P) rows and (seen - 1, P + 1) past."""
        self.rows[self.seen] = row
        self.seen += 1
        rows, past = self.rows[: self.seen], self.past[: self.seen - 1]
        rows.setflags(write=False)
        past.setflags(write=False)
        return rows, past

    def remember(self, held: _Held) -> None:
        self.past[self.seen - 1, :-1] = held.spot
        self.past[self.seen - 1, -1] = held.on_demand


def simulate(world: World, policy: CapacityPolicy) -> Run:
    """Play a policy over the whole run. Raises IllegalAllocationError when the policy asks for what there is not."""
    terms = world.terms()
    offers = Offers.of(world)
    state = policy.start(terms)
    counts: list[list[int]] = world.counts.tolist()
    num_pools = len(world.pools)
    window = _Window(
        np.zeros((world.num_ticks, num_pools), np.int32), np.zeros((world.num_ticks, num_pools + 1), np.int32)
    )
    held, books, records = _Held(spot=(0,) * num_pools), Books(), []
    finished_us: int | None = None
    for tick, row in enumerate(counts):
        # 1. Capacity falls: devices above the limit are preempted.
        before, before_total = (held.spot, held.on_demand), held.total
        limit = row if world.loss is LossReading.DROP or not tick else list(map(max, row, counts[tick - 1]))
        lost = tuple(max(h - c, 0) for h, c in zip(held.spot, limit, strict=True))
        held.spot = tuple(map(min, held.spot, limit))
        # 2. Losing devices costs the work since the last safe point; nothing else ever does.
        _book_loss(world, books, before_total, sum(lost))
        # 3. The policy decides, seeing nothing later than this row.
        rows, past = window.show(row)
        priced = offers.at(tick * world.tick_us)
        view = CapacityView(
            terms=terms,
            tick=tick,
            rows=rows,
            past=past,
            prices=priced.spot,
            on_demand_price=priced.on_demand,
            held=Allocation(spot=held.spot, on_demand=held.on_demand),
            lost=lost,
            done_s=books.useful_us / US_PER_S,
            stall_left_s=held.stall_left_us / US_PER_S,
        )
        decision, state = policy.decide(view, state)
        _check(world, view, decision.allocation)
        held.spot, held.on_demand = decision.allocation.spot, decision.allocation.on_demand
        # 4. Changed membership stalls the whole job.
        runs = held.total >= world.min_workers
        if (held.spot, held.on_demand) != before:
            held.stall_left_us = world.stall_us if runs else 0
            books.resizes += runs
        # 5. and 6. The rest of the tick is work, to the microsecond in which it completes.
        stalled_us, ran_us = _advance(world, books, held, runs)
        _bill(world, offers.prices, books, held, tick, stalled_us + ran_us)
        window.remember(held)
        records.append(_record(row, held, stalled_us, sum(lost), books, decision))
        if books.useful_us == world.work_us:
            finished_us = tick * world.tick_us + stalled_us + ran_us
            break
    assert books.balanced(), "paid device-time must equal useful + stall + lost + idle"
    return Run(world, policy.name, books, finished_us, tuple(records))


def _book_loss(world: World, books: Books, held_before: int, lost: int) -> None:
    books.preempted += lost
    if lost and held_before >= world.min_workers:
        gone = min(books.useful_us, held_before * world.loss_us)
        books.useful_us -= gone
        books.lost_us += gone


def _check(world: World, view: CapacityView, asked: Allocation) -> None:
    """Refuse what the world does not offer; the caller's books would be wrong ever after."""
    offered = view.offered
    numbers = (*asked.spot, asked.on_demand)
    if len(asked.spot) != len(offered) or not all(type(n) is int and n >= 0 for n in numbers):
        raise IllegalAllocationError(f"tick {view.tick}: {asked} must name one whole number per pool")
    if any(n > most for n, most in zip(asked.spot, offered, strict=True)):
        raise IllegalAllocationError(f"tick {view.tick}: {asked.spot} is above what is offered, {offered}")
    if asked.on_demand > world.max_on_demand or asked.total > world.max_workers:
        raise IllegalAllocationError(
            f"tick {view.tick}: {asked.on_demand} on-demand of {asked.total} devices; at most "
            f"{world.max_on_demand} and {world.max_workers}"
        )


def _advance(world: World, books: Books, held: _Held, runs: bool) -> tuple[int, int]:
    """Book one tick of stall and work, or of idling; return the microseconds stalled and run."""
    devices = held.total
    if not runs:
        books.idle_us += devices * world.tick_us
        return 0, world.tick_us
    stalled = min(held.stall_left_us, world.tick_us)
    held.stall_left_us -= stalled
    books.stall_us += devices * stalled
    left = world.work_us - books.useful_us
    ran = min(world.tick_us - stalled, -(-left // devices))
    useful = min(left, devices * ran)
    books.useful_us += useful
    books.idle_us += devices * ran - useful  # the fraction of the last microsecond in which work completes
    return stalled, ran


def _bill(world: World, prices: Course, books: Books, held: _Held, tick: int, paid_us: int) -> None:
    """Charge what was held at the prices of each moment, which may change within the tick."""
    assert not held.on_demand or world.on_demand_nano is not None, "on-demand needs a price; the loader asks for one"
    books.spot_us += sum(held.spot) * paid_us
    books.on_demand_us += held.on_demand * paid_us
    devices, begin_us = (*held.spot, held.on_demand), tick * world.tick_us
    books.cost += prices.amount(devices, begin_us, begin_us + paid_us)
    if world.carbon is not None:
        books.carbon += world.carbon.course.amount(devices, begin_us, begin_us + paid_us)


def _record(row: list[int], held: _Held, stalled_us: int, lost: int, books: Books, decision: Decision) -> TickRecord:
    return TickRecord(
        available=sum(row),
        spot=sum(held.spot),
        on_demand=held.on_demand,
        stalled_us=stalled_us,
        preempted=lost,
        done_us=books.useful_us,
        cost=books.cost,
        carbon=books.carbon,
        reason=decision.reason.value,
        detail=decision.detail,
    )
