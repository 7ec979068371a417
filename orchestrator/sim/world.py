"""The facts of one simulated run, as frozen whole numbers: recorded capacity, prices, and what the job asks.

Microseconds and nano-dollars, so that paid device-time and its parts add up exactly. Holds no choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from orchestrator.policy.capacity.view import Counts, LossReading, Pool, Terms
from orchestrator.sim.course import Course
from orchestrator.sim.prices import NANO
from orchestrator.spec.errors import ExitCode, UserError

US_PER_S = 1_000_000
US_PER_HOUR = 3600 * US_PER_S
COST_UNITS_PER_USD = NANO * US_PER_HOUR  # a bill is counted in nano-dollars per hour times microseconds
CARBON_UNITS_PER_KG = 1000 * NANO * US_PER_HOUR  # and carbon in nano-grams per hour times microseconds
KG_PER_TONNE = 1000


@dataclass(frozen=True, slots=True)
class Carbon:
    """Nano-grams of CO2 per device-hour over the run, and what a policy is to count a tonne at, in dollars."""

    course: Course
    usd_per_tonne: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One scenario made exact. `counts` (ticks of the run, pools) starts at the run's first tick.

    `price_course`: nano-dollars per device-hour when prices move by the hour; None when they stand still, as listed.
    `holes`, `rate_holes`: rows missing in the series, and in those of prices and carbon; carried forward.
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
    rate_holes: int = 0
    price_course: Course | None = None
    carbon: Carbon | None = None

    @property
    def num_ticks(self) -> int:
        """Ticks in the run."""
        return int(self.counts.shape[0])

    @property
    def prices(self) -> Course:
        """Nano-dollars per device-hour over the run, on-demand's last (0 where there is none to be had)."""
        return self.price_course or Course.steady((*self.spot_nano, self.on_demand_nano or 0))

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

    def amount(self, course: Course) -> int:
        """What it pays, or emits, along a course."""
        none = (0,) * (len(course.rates[0]) - 1)
        return course.amount((*none, self.workers), 0, self.finished_us)


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
