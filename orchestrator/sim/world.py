"""The facts of one simulated run, as frozen whole numbers: recorded capacity, prices, and what the job asks.

Microseconds and nano-dollars, so that paid device-time and its parts add up exactly. Holds no choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from orchestrator.policy.capacity.view import Counts, LossReading, Pool, Terms
from orchestrator.sim.prices import NANO
from orchestrator.spec.errors import ExitCode, UserError

US_PER_S = 1_000_000
US_PER_HOUR = 3600 * US_PER_S
COST_UNITS_PER_USD = NANO * US_PER_HOUR  # a bill is counted in nano-dollars per hour times microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One scenario made exact. `counts` (ticks of the run, pools) starts at the run's first tick.

    `price_nano_by_tick` has the same shape when prices move by the hour, and is None when they stand still.
    """

    name: str
    pools: tuple[str, ...]
    counts: Counts
    start: datetime
    holes: int
    loss: LossReading
    spot_nano: tuple[int, ...]
    on_demand_nano: int | None
    max_on_demand: int
    tick_us: int
    work_us: int
    min_workers: int
    max_workers: int
    deadline_us: int
    stall_us: int
    loss_us: int
    price_nano_by_tick: tuple[tuple[int, ...], ...] | None = None

    @property
    def num_ticks(self) -> int:
        """Ticks in the run."""
        return int(self.counts.shape[0])

    def price_nano_at(self, tick: int) -> tuple[int, ...]:
        """Spot prices in nano-dollars per device-hour at a tick of the run."""
        return self.price_nano_by_tick[tick] if self.price_nano_by_tick else self.spot_nano

    def terms(self) -> Terms:
        """What a policy may know: the same facts in seconds and dollars, without the series."""
        pools = zip(self.pools, self.spot_nano, strict=True)
        return Terms(
            pools=tuple(Pool(name=n, usd_per_device_hour=p / NANO) for n, p in pools),
            on_demand_usd_per_device_hour=None if self.on_demand_nano is None else self.on_demand_nano / NANO,
            max_on_demand=self.max_on_demand,
            tick_s=self.tick_us / US_PER_S,
            num_ticks=self.num_ticks,
            work_s=self.work_us / US_PER_S,
            min_workers=self.min_workers,
            max_workers=self.max_workers,
            deadline_s=self.deadline_us / US_PER_S,
            stall_s=self.stall_us / US_PER_S,
            loss_s=self.loss_us / US_PER_S,
            loss=self.loss,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandRun:
    """The run that never meets spot capacity: a fixed number of on-demand workers until the work is done."""

    workers: int
    finished_us: int

    @property
    def device_us(self) -> int:
        """Device-time it pays for."""
        return self.workers * self.finished_us


def on_demand_run(world: World) -> OnDemandRun:
    """The fewest on-demand workers that meet the deadline; `max_on_demand` is ignored on purpose (DESIGN.md §7).

    Raises: UserError (exit 8) with the earliest deadline that could be kept, when even all workers are too few.
    """
    earliest = world.stall_us + Fraction(world.work_us, world.max_workers)
    if earliest > world.deadline_us:
        raise UserError(
            f"deadline {_hours(world.deadline_us)} cannot be kept: {world.max_workers} on-demand workers need "
            f"{_hours(earliest)}",
            code=ExitCode.NEVER,
            where=world.name,
            next_step=f"The earliest deadline that can be kept is {-(-earliest // US_PER_S)}s.",
        )
    running_us = world.deadline_us - world.stall_us
    workers = max(world.min_workers, -(-world.work_us // running_us))
    return OnDemandRun(workers=workers, finished_us=world.stall_us - (-world.work_us // workers))


def _hours(microseconds: int | Fraction) -> str:
    exact = timedelta(microseconds=float(microseconds))
    return f"{exact.total_seconds() / 3600:.4f}h"
