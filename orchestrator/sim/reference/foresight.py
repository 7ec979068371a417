"""What an elastic job would cost if the whole series were known: a lower bound on every policy's bill, and a plan.

While membership stands still a run is an *epoch*: fixed devices from one tick to another, a stall at its start, and at
its end either nothing (whatever was about to vanish was never held) or the loss of unsaved work. For a given price of
useful work the best sequence of epochs is a longest path over ticks, found exactly; the work to be done is priced by a
Lagrange multiplier, so the dual value is a bound no policy can beat. The plan is the cheapest of the paths met that do
the work; playing it in the engine gives what foresight attains.

Under `debounced` the bound lets every epoch use max(count, count before), as if devices had always been held; the plan
takes no more than the count where an epoch starts. Units: device-hours, dollars. Shapes: T ticks, P pools.
Needs: stall and losses small against a tick, so that a loss never exceeds the work done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.policy.capacity.view import Allocation, CapacityView, Decision, LossReading, Terms
from orchestrator.sim.engine import Run, simulate
from orchestrator.sim.prices import NANO
from orchestrator.sim.reference.common import Rule
from orchestrator.sim.world import US_PER_HOUR, World

STEPS = 24  # halvings of the price of work: far below a cent of the bill
MAX_PRICE_FACTOR = 4.0  # of the dearest device: above it no work is worth doing
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Foresight:
    """`bound_usd`: no policy can cost less. `run`: the best plan found, played; None when there is none."""

    bound_usd: float
    run: Run | None


@dataclass(frozen=True, slots=True)
class _Offer:
    """Devices that can be held from tick s up to tick e, cumulated from the cheapest pool and capped.

    Shapes: (P + 1, T, T + 1). `clean`: none of them vanishes at e. `dirty`: they are there until e,
    whatever happens then.
    """

    clean: NDArray[np.int32]
    dirty: NDArray[np.int32]
    order: tuple[int, ...]
    usd: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Devices per pool in the offer's order, from tick to tick."""

    start: int
    end: int
    held: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Path:
    """The best epochs at one price of work, what they are worth above their bill, and the work they do."""

    worth_usd: float
    useful_h: float
    epochs: tuple[_Epoch, ...]


def foresee(world: World) -> Foresight:
    """Bound and plan. Raises: ValueError where prices move or the overheads are not small against a tick."""
    if world.price_course is not None or world.deadline_us % world.tick_us:
        raise ValueError("foresight needs prices that stand still and a deadline on a tick")
    if world.tick_us - world.stall_us < world.loss_us * world.max_workers / world.min_workers:
        raise ValueError("foresight needs a stall and a loss that are small against a tick")
    relaxed = _offer(world, strict=False)
    bound_usd, path = _dual(world, relaxed)
    if world.loss is LossReading.DEBOUNCED:
        relaxed = _offer(world, strict=True)
        path = _dual(world, relaxed)[1]
    return Foresight(bound_usd, None if path is None else _play(world, relaxed, path))


def _dual(world: World, offer: _Offer) -> tuple[float, _Path | None]:
    """Largest dual value over prices of work, and the path of least bill that does all of it."""
    work_h = world.work_us / US_PER_HOUR
    low, high = 0.0, MAX_PRICE_FACTOR * max(offer.usd)
    enough = _longest(world, offer, high)
    if enough.useful_h < work_h:
        return float("inf"), None
    bound = work_h * high - enough.worth_usd
    for _ in range(STEPS):
        usd = (low + high) / 2
        path = _longest(world, offer, usd)
        bound = max(bound, work_h * usd - path.worth_usd)
        if path.useful_h < work_h:
            low = usd
        else:
            high, enough = usd, path
    return bound, enough


def _offer(world: World, *, strict: bool) -> _Offer:
    """What epochs can hold; `strict`: no more than the count where they start."""
    ticks = min(world.num_ticks, world.deadline_us // world.tick_us)
    take = np.array(world.counts[:ticks], dtype=np.int32)
    keep = take.copy()
    if world.loss is LossReading.DEBOUNCED:
        keep[1:] = np.maximum(take[1:], take[:-1])
    on_demand = np.full((ticks, 1), world.max_on_demand if world.on_demand_nano is not None else 0, np.int32)
    keep = np.hstack([keep, on_demand])
    take = np.hstack([take, on_demand]) if strict else keep
    nano = (*world.spot_nano, world.on_demand_nano or 0)
    order = tuple(sorted(range(len(nano)), key=lambda pool: (nano[pool], pool)))
    shape = (len(order), ticks, ticks + 1)
    clean, dirty = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, pool in enumerate(order):
        for start in range(ticks):
            least = np.minimum.accumulate(np.concatenate([take[start : start + 1, pool], keep[start + 1 :, pool]]))
            dirty[row, start, start + 1 :] = least
            clean[row, start, start + 1 :] = np.append(least[1:], least[-1])
    for held in (clean, dirty):
        np.cumsum(held, axis=0, out=held)
        np.minimum(held, world.max_workers, out=held)
    return _Offer(clean, dirty, order, tuple(nano[pool] / NANO for pool in order))


def _worths(
    world: World, offer: _Offer, cumulated: NDArray[np.int32], usd: float, overhead_us: int
) -> tuple[Values, NDArray[np.int32]]:
    """Dollars every epoch earns when useful work is worth `usd` an hour, and with how many workers: (T, T + 1) each."""
    ticks = cumulated.shape[1]
    hours = (np.arange(ticks + 1)[None, :] - np.arange(ticks)[:, None]) * (world.tick_us / US_PER_HOUR)
    useful = usd * (hours - overhead_us / US_PER_HOUR)
    worth, workers = np.zeros(hours.shape), np.zeros(hours.shape, np.int32)
    for here, price in zip(cumulated, offer.usd, strict=True):
        gain = useful - hours * price
        wanted = np.maximum(workers, np.where(gain > 0, here, np.minimum(here, world.min_workers)))
        worth += (wanted - workers) * gain
        workers = wanted
    return np.where((workers >= world.min_workers) & (hours > 0), worth, -np.inf), workers


def _longest(world: World, offer: _Offer, usd: float) -> _Path:
    """The best sequence of epochs when an hour of useful work is worth `usd`."""
    stall_us, loss_us = world.stall_us, world.loss_us
    clean, clean_workers = _worths(world, offer, offer.clean, usd, stall_us)
    lossy, lossy_workers = _worths(world, offer, offer.dirty, usd, stall_us + loss_us)
    final, final_workers = _worths(world, offer, offer.dirty, usd, stall_us)  # done work loses nothing any more
    ticks = clean.shape[0]
    best = np.zeros(ticks + 1)
    chosen: list[tuple[int, str] | None] = [None] * ticks
    for start in range(ticks - 1, -1, -1):
        best[start] = best[start + 1]
        for kind, worths in (
            ("clean", clean[start] + best),
            ("lossy", lossy[start] + best),
            ("final", final[start]),
        ):
            end = int(worths.argmax())
            if worths[end] > best[start]:
                best[start], chosen[start] = worths[end], (end, kind)
    tables = {
        "clean": (clean_workers, offer.clean, stall_us),
        "lossy": (lossy_workers, offer.dirty, stall_us + loss_us),
        "final": (final_workers, offer.dirty, stall_us),
    }
    epochs, useful_us, tick = [], 0, 0
    while tick < ticks:
        step = chosen[tick]
        if step is None:
            tick += 1
            continue
        end, kind = step
        workers, cumulated, overhead_us = tables[kind]
        total = int(workers[tick, end])
        held = np.diff(np.minimum(cumulated[:, tick, end], total), prepend=0)
        epochs.append(_Epoch(tick, end, tuple(held.tolist())))
        useful_us += total * ((end - tick) * world.tick_us - overhead_us)
        tick = ticks if kind == "final" else end
    return _Path(float(best[0]), useful_us / US_PER_HOUR, tuple(epochs))


@dataclass(frozen=True, slots=True)
class _Planned:
    """Plays a plan; the simulator checks that it was possible."""

    allocations: tuple[Allocation, ...]
    name: str = "foresight"

    def start(self, terms: Terms) -> None:
        return None

    def decide(self, view: CapacityView, state: None) -> tuple[Decision, None]:
        return Decision(allocation=self.allocations[view.tick], reason=Rule.FIXED), None


def _play(world: World, offer: _Offer, path: _Path) -> Run:
    allocations = [Allocation(spot=(0,) * len(world.pools))] * world.num_ticks
    for epoch in path.epochs:
        by_pool = dict(zip(offer.order, epoch.held, strict=True))
        spot = tuple(by_pool[pool] for pool in range(len(world.pools)))
        whole = Allocation(spot=spot, on_demand=by_pool[len(world.pools)])
        allocations[epoch.start : epoch.end] = [whole] * (epoch.end - epoch.start)
    return simulate(world, _Planned(tuple(allocations)))
