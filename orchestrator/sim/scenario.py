"""Turns a Scenario file into a World: finds its series, cuts the run out of it, and makes every number exact."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.course import Course
from orchestrator.sim.hourly import G_PER_KWH, USD_PER_DEVICE_HOUR, load_hourly
from orchestrator.sim.prices import PriceList, load_prices
from orchestrator.sim.series import CapacitySeries, load_series, round_half_up
from orchestrator.sim.world import US_PER_S, Carbon, World
from orchestrator.spec import Scenario, load_one
from orchestrator.spec.errors import UserError
from orchestrator.spec.scenario import ScenarioSpec


def load_world(path: Path) -> tuple[World, str]:
    """Read a scenario file; return its world and the name of the policy it asks for.

    Paths in the file are relative to it. Raises: UserError (exit 3) naming the file and key at fault.
    """
    scenario = load_one(path, Scenario)
    return build_world(scenario, path), scenario.spec.policy


def build_world(scenario: Scenario, path: Path) -> World:
    """The exact world of a scenario that was read from `path`."""
    spec, where = scenario.spec, str(path)
    series = load_series(path.parent / spec.capacity.trace)
    prices = load_prices(
        path.parent / spec.capacity.prices, series.pools, on_demand_needed=spec.on_demand.max_devices > 0
    )
    first = _first_tick(series, spec.start, where)
    num_ticks = _num_ticks(series, first, spec.duration, where)
    course, carbon, rate_holes = _by_hour(
        spec, path, prices, series, series.time_of(first), series.time_of(first + num_ticks)
    )
    duration_us = num_ticks * series.tick_s * US_PER_S
    return World(
        name=scenario.metadata.name,
        pools=series.pools,
        counts=series.counts[first : first + num_ticks],
        start=series.time_of(first),
        holes=sum(first <= hole < first + num_ticks for hole in series.holes),
        rate_holes=rate_holes,
        price_course=course,
        carbon=carbon,
        loss=LossReading(spec.capacity.loss),
        spot_nano=prices.spot_nano,
        on_demand_nano=prices.on_demand_nano,
        max_on_demand=spec.on_demand.max_devices,
        tick_us=series.tick_s * US_PER_S,
        work_us=_microseconds(spec.job.work),
        min_workers=spec.job.workers.min,
        max_workers=spec.job.workers.max,
        deadline_us=duration_us if spec.job.deadline is None else _microseconds(spec.job.deadline),
        stall_us=_microseconds(spec.job.stall),
        loss_us=_microseconds(spec.job.unannounced_loss),
    )


def _by_hour(
    spec: ScenarioSpec, path: Path, prices: PriceList, series: CapacitySeries, start: datetime, end: datetime
) -> tuple[Course | None, Carbon | None, int]:
    """Prices and carbon that move, where the scenario names files of them, and how many rows those seem to lack."""
    capacity, pools = spec.capacity, series.pools
    course, carbon, holes = None, None, 0
    if capacity.price_series is not None:
        listed = (*prices.spot_nano, prices.on_demand_nano or 0)
        file = path.parent / capacity.price_series
        read = load_hourly(file, pools, USD_PER_DEVICE_HOUR, start=start, end=end, otherwise=listed)
        course, holes = read.course, read.holes
    if capacity.carbon_series is not None:
        assert capacity.power_w is not None, "the spec asks for watts beside an intensity"
        file, needed = path.parent / capacity.carbon_series, spec.on_demand.max_devices > 0
        read = load_hourly(file, pools, G_PER_KWH, start=start, end=end, on_demand_needed=needed)
        # Micro-grams per kWh times watts are nano-grams per hour.
        rates = tuple(tuple(round(micro * capacity.power_w) for micro in row) for row in read.course.rates)
        carbon = Carbon(Course(read.course.since_us, rates), float(capacity.carbon_price or 0))
        holes += read.holes
    return course, carbon, holes


def _first_tick(series: CapacitySeries, start: datetime | None, where: str) -> int:
    if start is None:
        return 0
    try:
        return series.index_of(start)
    except UserError as error:
        raise UserError(f"spec.start: {error.problem} ({series.source})", where=where) from None


def _num_ticks(series: CapacitySeries, first: int, duration_s: float | None, where: str) -> int:
    inside = series.num_ticks - first
    if duration_s is None:
        return inside
    ticks, rest_us = divmod(_microseconds(duration_s), series.tick_s * US_PER_S)
    if ticks < 1 or rest_us:
        raise UserError(f"spec.duration: {duration_s:g}s is no whole number of ticks of {series.tick_s}s", where=where)
    if ticks > inside:
        raise UserError(
            f"spec.duration: {ticks} ticks of {series.tick_s}s, but the series has {inside} from its start "
            f"{series.time_of(first).isoformat()}",
            where=where,
            next_step=f"At most {inside * series.tick_s}s fit.",
        )
    return ticks


def _microseconds(seconds: float) -> int:
    return round_half_up(seconds * US_PER_S)
