"""One gang of fixed size on one pool: where it should run now, from a plan of all the time that is left.

Small enough to be planned exactly under what is known: the state is where the gang is, how long its market has been
open or shut, the work left and the time left. Every move costs a stall, what vanishes takes unsaved work along, and a
place from which on-demand could not rescue the deadline is never planned for. The plan is made anew as the market
becomes better known. Units: inside, time and work are counted in steps of the plan.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.policy.capacity.market import NUM_OPEN, NUM_SHUT, Market, Matrix, chances
from orchestrator.policy.capacity.usual import Usual
from orchestrator.policy.capacity.view import Allocation, CapacityView, Terms

MAX_STEPS = 600  # of a plan: a longer time left is planned in longer steps
REPLAN_S = 6 * 3600.0  # a plan is made anew so often, or when this share of its time is over, whichever is later
REPLAN_SHARE = 0.05


class Place(enum.IntEnum):
    """Where the gang is."""

    IDLE = 0
    SPOT = 1
    ON_DEMAND = 2


@dataclass(frozen=True, slots=True)
class GangPlan:
    """Dollars still to be spent, by steps left: `costs[k]` for `last - k` steps, each (places, buckets, work left)."""

    step_s: float
    last: int
    costs: tuple[Matrix, ...]

    def covers(self, time_left_s: float) -> bool:
        """Whether the plan was made for so much time left."""
        return self.last - len(self.costs) + 1 <= time_left_s / self.step_s <= self.last

    def cost_usd(self, place: Place, work_s: float, time_left_s: float) -> Matrix:
        """Dollars from there to the end, per bucket, between the points of the plan in straight lines."""
        slot = min(max(self.last - time_left_s / self.step_s, 0.0), len(self.costs) - 1.0)
        early = min(int(slot), len(self.costs) - 2) if len(self.costs) > 1 else 0
        late = min(early + 1, len(self.costs) - 1)
        first, second = (_at(self.costs[k][place], work_s / self.step_s) for k in (early, late))
        return first + (second - first) * (slot - early)


def is_planned(terms: Terms) -> bool:
    """Whether a job is one gang on one pool that on-demand could run, too."""
    return (
        len(terms.pools) == 1
        and terms.min_workers == terms.max_workers <= terms.on_demand_limit
        and terms.on_demand_usd_per_device_hour is not None
    )


def is_open(view: CapacityView) -> bool:
    """Whether the gang could run on spot now."""
    return view.offered[0] >= view.terms.min_workers


def ranked(view: CapacityView, market: Market, plan: GangPlan) -> list[tuple[float, Place]]:
    """Where to be at this tick, cheapest first, with the dollars each way is expected to cost to the end.

    Staying wins a tie, then on-demand.
    """
    terms, here = view.terms, place_of(view)
    after = chances(market, terms.tick_s)[market.bucket]
    left_s, work_s = view.time_left_s - terms.tick_s, view.work_left_s / terms.min_workers
    found = []
    for place in Place:
        if place is Place.SPOT and not market.is_open:
            continue
        stall_s = view.stall_left_s if place is here and not any(view.lost) else terms.stall_s
        runs = place is not Place.IDLE
        done_s = min(work_s, max(0.0, terms.tick_s - stall_s)) if runs else 0.0
        paid_s = min(terms.tick_s, stall_s + work_s) if runs else 0.0
        owed_s = max(0.0, stall_s - terms.tick_s) if runs else 0.0  # a stall longer than the tick goes on
        then = plan.cost_usd(place, work_s - done_s + owed_s, left_s)
        if place is Place.SPOT:
            lost = plan.cost_usd(Place.IDLE, work_s - done_s + terms.loss_s, left_s)
            then = np.concatenate([then[:NUM_OPEN], lost[NUM_OPEN:]])
        price = (0.0, view.prices[0], view.on_demand_price or 0.0)[place]
        found.append((terms.min_workers * price * paid_s / 3600.0 + float(after @ then), place))
    return sorted(found, key=lambda way: (way[0], way[1] is not here, -way[1]))


def place_of(view: CapacityView) -> Place:
    """Where the gang is after this tick's losses; with too few devices it is nowhere."""
    size = view.terms.min_workers
    if view.held.spot[0] == size:
        return Place.SPOT
    return Place.ON_DEMAND if view.held.on_demand == size else Place.IDLE


def allocation_at(place: Place, size: int) -> Allocation:
    """The devices that a place means."""
    return Allocation(spot=(size * (place is Place.SPOT),), on_demand=size * (place is Place.ON_DEMAND))


def make_plan(view: CapacityView, market: Market, usual: Usual) -> GangPlan:
    """Plan all the time left from the market as it is known now, at the prices that are usual."""
    terms = view.terms
    step_s = max(terms.tick_s, view.time_left_s / MAX_STEPS)
    num_steps = max(1, math.ceil(view.time_left_s / step_s))
    stands_s = max(REPLAN_S, REPLAN_SHARE * view.time_left_s)
    kept = min(num_steps, math.ceil((stands_s + terms.tick_s) / step_s) + 2)
    rules = _Rules.of(view, market, usual, step_s)
    cost = rules.at_the_end()
    kept_costs = [cost]
    for steps_left in range(1, num_steps + 1):
        cost = rules.one_step_earlier(cost, steps_left)
        kept_costs.append(cost)
        if len(kept_costs) > kept:
            del kept_costs[0]
    return GangPlan(step_s, num_steps, tuple(reversed(kept_costs)))


@dataclass(frozen=True, slots=True)
class _Way:
    """Running for one step from every amount of work left: what it costs, what is left, and when it is still safe.

    `stall` of the step is in vain; a stall longer than the step is owed as work. `need`: steps that must be left after
    this one if everything vanishes.
    """

    paid: Matrix
    shift: _Shift
    need: Matrix

    @classmethod
    def of(cls, work: Matrix, stall: float, *, usd: float, rescue: float) -> _Way:
        left = np.maximum(0.0, work - (1.0 - stall))
        return cls(np.minimum(1.0, work + stall) * usd, _Shift.to(left), np.where(left > 0, left + rescue, 0.0))

    def cost(self, later: Matrix) -> Matrix:
        return self.paid + self.shift.apply(later)

    def safe_cost(self, later: Matrix, rest: int) -> Matrix:
        """The cost where on-demand could still rescue what may vanish, else infinite."""
        found = self.cost(later)
        found[:, np.searchsorted(self.need, rest, side="right") :] = np.inf
        return found


@dataclass(frozen=True, slots=True)
class _Shift:
    """Reads costs at other amounts of work left, in straight lines between whole ones."""

    low: NDArray[np.int64]
    share: Matrix | None

    @classmethod
    def to(cls, work: Matrix) -> _Shift:
        top = len(work) - 1
        low = np.minimum(work.astype(np.int64), top - 1)
        share = np.minimum(work - low, 1.0)
        return cls(np.minimum(work.astype(np.int64), top), None) if not (share % 1.0).any() else cls(low, share)

    def apply(self, costs: Matrix) -> Matrix:
        first = costs.take(self.low, axis=-1)
        if self.share is not None:
            first += (costs.take(self.low + 1, axis=-1) - first) * self.share
        return first


@dataclass(frozen=True, slots=True)
class _Rules:
    """What one step of the plan costs and does. Shapes: costs (places, buckets, W), work left 0..W-1 in steps."""

    chance: Matrix
    work: Matrix
    waits: Matrix
    loses: _Shift
    stay_spot: _Way
    move_spot: _Way
    stay_bought: _Way
    move_bought: _Way
    on_demand_usd: float

    @classmethod
    def of(cls, view: CapacityView, market: Market, usual: Usual, step_s: float) -> _Rules:
        terms = view.terms
        stall, loss = terms.stall_s / step_s, terms.loss_s / step_s
        num_work = math.ceil(view.work_left_s / terms.min_workers / step_s + stall + loss) + 2
        work = np.arange(num_work, dtype=np.float64)
        step_usd = step_s / 3600.0 * terms.min_workers
        spot_usd, on_demand_usd = usual.spot[0] * step_usd, (usual.on_demand or 0.0) * step_usd
        return cls(
            chance=chances(market, step_s),
            work=work,
            waits=work + stall,
            loses=_Shift.to(work + loss),
            stay_spot=_Way.of(work, 0.0, usd=spot_usd, rescue=loss + stall),
            move_spot=_Way.of(work, stall, usd=spot_usd, rescue=loss + stall),
            stay_bought=_Way.of(work, 0.0, usd=on_demand_usd, rescue=0.0),
            move_bought=_Way.of(work, stall, usd=on_demand_usd, rescue=0.0),
            on_demand_usd=on_demand_usd,
        )

    def at_the_end(self) -> Matrix:
        """What is not done by then is bought all the same; the net never lets it come to that."""
        shape = (len(Place), NUM_OPEN + NUM_SHUT, len(self.work))
        return np.broadcast_to(self.work * self.on_demand_usd, shape).copy()

    def one_step_earlier(self, later: Matrix, steps_left: int) -> Matrix:
        """The least cost with one more step to go."""
        chance, rest = self.chance, steps_left - 1
        idle = chance @ later[Place.IDLE]
        idle[:, np.searchsorted(self.waits, rest, side="right") :] = np.inf
        bought = chance @ later[Place.ON_DEMAND]
        # On spot only where the market is open: its devices are there after the step, or they are gone.
        spot = chance[:NUM_OPEN, :NUM_OPEN] @ later[Place.SPOT][:NUM_OPEN]
        spot += chance[:NUM_OPEN, NUM_OPEN:] @ self.loses.apply(later[Place.IDLE][NUM_OPEN:])
        found = np.empty_like(later)
        move_bought, move_spot = self.move_bought.cost(bought), self.move_spot.safe_cost(spot, rest)
        np.minimum(idle, move_bought, out=found[Place.IDLE])
        np.minimum(idle, self.stay_bought.cost(bought), out=found[Place.ON_DEMAND])
        found[Place.SPOT] = found[Place.IDLE]
        for place, way in ((Place.IDLE, move_spot), (Place.ON_DEMAND, move_spot), (Place.SPOT, None)):
            there = found[place][:NUM_OPEN]
            np.minimum(there, self.stay_spot.safe_cost(spot, rest) if way is None else way, out=there)
        found[:, :, 0] = 0.0
        return found


def _at(costs: Matrix, work: float) -> Matrix:
    """Costs per bucket at one amount of work left."""
    low = min(int(work), costs.shape[-1] - 2)
    share = min(work - low, 1.0)
    found: Matrix = costs[:, low] * (1.0 - share) + costs[:, low + 1] * share
    return found
