"""Which stretches of a recorded series a capacity policy is chosen on, and which it is reported on.

Chosen on: the first half of the series, as it is and with every zone rotated against time within that half. Reported
on: 96 h from every twelfth hour of the whole series, as long as they fit. Nothing here knows a policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.policy.capacity.view import Counts, LossReading
from orchestrator.sim.prices import PriceList, load_prices
from orchestrator.sim.series import CapacitySeries, load_series
from orchestrator.sim.world import US_PER_HOUR, US_PER_S, World

DURATION_S = 96 * 3600
EVERY_S = 12 * 3600
ROTATIONS = 6
SEED = 7
MIN_WORKERS, MAX_WORKERS, MAX_ON_DEMAND = 100, 200, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row's job: hours of work in 96 h, seconds of stall and loss, and how a low probe is read."""

    work_h: int
    stall_s: float
    loss_s: float
    loss: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A series with its price list."""

    series: CapacitySeries
    prices: PriceList


def load(data: Path) -> Recorded:
    """The 13-zone series of a data folder, or any of the same form in its place."""
    folder = data / "h100-spot-13zone"
    series = load_series(folder / "capacity.csv")
    return Recorded(series=series, prices=load_prices(folder / "prices.csv", series.pools, on_demand_needed=True))


def reporting(series: CapacitySeries) -> list[Counts]:
    """Windows of 96 h, one every 12 h."""
    length, step = DURATION_S // series.tick_s, EVERY_S // series.tick_s
    return [series.counts[first : first + length] for first in range(0, series.num_ticks - length + 1, step)]


def choosing(series: CapacitySeries) -> list[Counts]:
    """The first half of the series, and rotations of its zones against each other, repeated to fill 96 h."""
    half = series.counts[: series.num_ticks // 2 // 72 * 72]
    length, generator = DURATION_S // series.tick_s, np.random.default_rng(SEED)
    made = [half]
    for _ in range(ROTATIONS):
        shifts = generator.integers(len(half), size=half.shape[1])
        rolled = np.stack([np.roll(half[:, pool], int(shift)) for pool, shift in enumerate(shifts)], axis=1)
        made.append(np.concatenate([rolled] * (length // len(rolled) + 1))[:length])
    return made


def world_of(recorded: Recorded, counts: Counts, setting: Setting) -> World:
    """One window as a world; the work shrinks with a window shorter than 96 h."""
    series, prices = recorded.series, recorded.prices
    duration_us = len(counts) * series.tick_s * US_PER_S
    return World(
        name="capacity",
        pools=series.pools,
        counts=counts,
        start=series.start,
        holes=0,
        loss=LossReading(setting.loss),
        spot_nano=prices.spot_nano,
        on_demand_nano=prices.on_demand_nano,
        max_on_demand=MAX_ON_DEMAND,
        tick_us=series.tick_s * US_PER_S,
        work_us=setting.work_h * US_PER_HOUR * duration_us // (DURATION_S * US_PER_S),
        min_workers=MIN_WORKERS,
        max_workers=MAX_WORKERS,
        deadline_us=duration_us,
        stall_us=round(setting.stall_s * US_PER_S),
        loss_us=round(setting.loss_s * US_PER_S),
    )
