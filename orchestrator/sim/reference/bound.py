"""The cheapest device-hours there are: no stall, no minimum, no policy can cost less.

Not a policy: it reads the whole series. Under `debounced` a device may be held through one low probe, so the bound
counts max(present, previous).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.engine import Books, Run
from orchestrator.sim.world import World

Offer = tuple[int, int, int, bool, int]  # price, tick, devices, on-demand, how long within the tick


def bound(world: World) -> Run:
    """The bill of the cheapest device-hours up to the deadline, earliest first among equals."""
    whole_ticks = min(world.num_ticks, world.deadline_us // world.tick_us)
    counts = np.array(world.counts[:whole_ticks], dtype=np.int64)
    if world.loss is LossReading.DEBOUNCED and whole_ticks > 1:
        counts[1:] = np.maximum(counts[1:], world.counts[: whole_ticks - 1])
    offers: list[Offer] = []
    for tick in range(whole_ticks):
        begin_us = tick * world.tick_us
        for lasts_us, rates in world.prices.pieces(begin_us, begin_us + world.tick_us):
            offers += _cheapest(world, rates, counts[tick].tolist(), tick, lasts_us)
    books, left, last_tick = Books(), world.work_us, 0
    for price, tick, devices, on_demand, lasts_us in sorted(offers):
        taken = min(left, devices * lasts_us)
        if not taken:
            break
        left -= taken
        last_tick = max(last_tick, tick)
        books.cost += taken * price
        books.useful_us += taken
        books.on_demand_us += taken if on_demand else 0
        books.spot_us += 0 if on_demand else taken
    finished_us = None if left else (last_tick + 1) * world.tick_us
    return Run(world, "bound", books, finished_us, ())


def _cheapest(world: World, rates: Sequence[int], counts: list[int], tick: int, lasts_us: int) -> list[Offer]:
    """The cheapest `max_workers` devices while prices stand still; more than that a job cannot use at once."""
    priced = sorted((price, pool, counts[pool]) for pool, price in enumerate(rates[:-1]))
    offers = [(price, n, False) for price, _, n in priced]
    if world.max_on_demand and world.on_demand_nano is not None:
        offers = sorted([*offers, (rates[-1], world.max_on_demand, True)], key=lambda o: (o[0], o[2]))
    room, chosen = world.max_workers, []
    for price, n, on_demand in offers:
        taken = min(room, n)
        room -= taken
        if taken:
            chosen.append((price, tick, taken, on_demand, lasts_us))
    return chosen
