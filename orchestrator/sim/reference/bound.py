"""The cheapest device-hours there are: no stall, no minimum, no policy can cost less.

Not a policy: it reads the whole series. Under `debounced` a device may be held through one low probe, so the bound
counts max(present, previous).
"""

from __future__ import annotations

import numpy as np

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.engine import Books, Run
from orchestrator.sim.world import World


def bound(world: World) -> Run:
    """The bill of the cheapest device-hours up to the deadline, earliest first among equals."""
    whole_ticks = min(world.num_ticks, world.deadline_us // world.tick_us)
    counts = np.array(world.counts[:whole_ticks], dtype=np.int64)
    if world.loss is LossReading.DEBOUNCED and whole_ticks > 1:
        counts[1:] = np.maximum(counts[1:], world.counts[: whole_ticks - 1])
    offers: list[tuple[int, int, int, bool]] = []  # price, tick, devices, on-demand
    for tick in range(whole_ticks):
        offers += _cheapest_of_tick(world, tick, counts[tick].tolist())
    books, left, last_tick = Books(), world.work_us, 0
    for price, tick, devices, on_demand in sorted(offers):
        taken = min(left, devices * world.tick_us)
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


def _cheapest_of_tick(world: World, tick: int, counts: list[int]) -> list[tuple[int, int, int, bool]]:
    """The cheapest `max_workers` devices of one tick; more than that a job cannot use at once."""
    priced = sorted((price, pool, counts[pool]) for pool, price in enumerate(world.price_nano_at(tick)))
    offers = [(price, n, False) for price, _, n in priced]
    if world.max_on_demand and world.on_demand_nano is not None:
        offers = sorted([*offers, (world.on_demand_nano, world.max_on_demand, True)], key=lambda o: (o[0], o[2]))
    room, chosen = world.max_workers, []
    for price, n, on_demand in offers:
        taken = min(room, n)
        room -= taken
        if taken:
            chosen.append((price, tick, taken, on_demand))
    return chosen
