"""What a live job has drawn, emitted and cost, by the hour: its leases over time, beside the pools' power, prices and
carbon intensity.

The books charge a pool's fixed price; where a pool names a series, what it would have cost by that is told here.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import AttemptRow
from orchestrator.policy.queueing.money import cost_micro_usd
from orchestrator.sim.course import Course
from orchestrator.sim.hourly import G_PER_KWH, MICRO, USD_PER_DEVICE_HOUR, Quantity, load_hourly
from orchestrator.sim.prices import NANO
from orchestrator.spec import Cluster
from orchestrator.spec.cluster_pools import Pool
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)

_US_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """Devices of one pool in a job's hands for a while, in UTC milliseconds."""

    pool: str
    devices: int
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a job has used so far; None = some pool that it sat on does not say. `usd` is by the hour where a pool has a
    series, else by its price."""

    kwh: float | None
    g_co2: float | None
    usd: float | None


def stretches(attempts: Sequence[AttemptRow], devices_per_worker: int, now_ms: int) -> Iterator[Stretch]:
    """Where a job's devices were over time: an attempt's seats from its order to the next one's, and what drained
    after that until its end."""
    ordered = sorted(attempts, key=lambda one: one.attempt)
    for at, one in enumerate(ordered):
        ends_ms = now_ms if one.ended_ms is None else one.ended_ms
        next_ms = ordered[at + 1].ordered_ms if at + 1 < len(ordered) else ends_ms
        seats = _devices(one, devices_per_worker)
        after = _devices(ordered[at + 1], devices_per_worker) if at + 1 < len(ordered) else {}
        for (pool, node), devices in seats.items():
            yield Stretch(pool, devices, one.ordered_ms, min(ends_ms, next_ms))
            left = devices - min(devices, after.get((pool, node), 0))
            if left and ends_ms > next_ms:
                yield Stretch(pool, left, next_ms, ends_ms)


def _devices(attempt: AttemptRow, devices_per_worker: int) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for pool, node, workers in json.loads(attempt.placement):
        found[pool, node] = found.get((pool, node), 0) + workers * devices_per_worker
    return found


@dataclass(slots=True)
class Footprints:
    """Reads what a job used. `base`: the folder that the Cluster's paths are relative to. Safe from any thread."""

    ledger: Ledger
    base: Path
    now_s: Callable[[], float]
    _told: set[str] = field(default_factory=set)

    def __call__(self, job: str) -> Footprint | None:
        """Of a job that has held devices; None where no pool says more than its price, which the books have."""
        found = self.ledger.read.cluster()
        if found is None:
            return None
        pools = {pool.name: pool for pool in found[1].spec.pools}
        row = self.ledger.read.job(job)
        now_ms = round(self.now_s() * 1000)
        parts = list(stretches(self.ledger.read.attempts(job), row.shape.devices_per_worker, now_ms))
        known = [pools[one.pool] for one in parts if one.pool in pools]
        if not any(pool.power_w or pool.price_series for pool in known):
            return None
        return Footprint(
            kwh=_sum(self._kwh(pools.get(one.pool), one) for one in parts),
            g_co2=_sum(self._g_co2(pools.get(one.pool), one, found[1]) for one in parts),
            usd=_sum(self._usd(pools.get(one.pool), one, found[1]) for one in parts),
        )

    def _kwh(self, pool: Pool | None, one: Stretch) -> float | None:
        if pool is None or pool.power_w is None:
            return None
        return one.devices * pool.power_w / 1000 * (one.to_ms - one.from_ms) / 3_600_000

    def _g_co2(self, pool: Pool | None, one: Stretch, cluster: Cluster) -> float | None:
        if pool is None or pool.power_w is None or pool.carbon_series is None:
            return None
        whole = self._amount(pool, pool.carbon_series, G_PER_KWH, one, cluster)
        return None if whole is None else whole / _US_PER_HOUR / MICRO * pool.power_w / 1000

    def _usd(self, pool: Pool | None, one: Stretch, cluster: Cluster) -> float | None:
        if pool is None:
            return None
        if pool.price_series is None:
            micro_usd = int(pool.price * 1_000_000)
            return cost_micro_usd(one.devices * (one.to_ms - one.from_ms), micro_usd) / 1e6
        whole = self._amount(pool, pool.price_series, USD_PER_DEVICE_HOUR, one, cluster)
        return None if whole is None else whole / _US_PER_HOUR / NANO

    def _amount(self, pool: Pool, file: str, quantity: Quantity, one: Stretch, cluster: Cluster) -> int | None:
        """Rate times devices times microseconds over a stretch; None, said once, for a series that does not tell."""
        if one.to_ms <= one.from_ms:
            return 0
        names = [each.name for each in cluster.spec.pools]
        start, end = (dt.datetime.fromtimestamp(ms / 1000, dt.UTC) for ms in (one.from_ms, one.to_ms))
        try:
            course = load_hourly(
                self.base / file, names, quantity, start=start, end=end, otherwise=[0] * (len(names) + 1)
            ).course
        except UserError as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                log.warning("a series tells nothing of a job's use", pool=pool.name, error=str(error))
            return None
        return _of(course, names.index(pool.name), one)


def _of(course: Course, column: int, one: Stretch) -> int:
    lasts_us = (one.to_ms - one.from_ms) * 1000
    return sum(rates[column] * piece_us for piece_us, rates in course.pieces(0, lasts_us)) * one.devices


def _sum(parts: Iterable[float | None]) -> float | None:
    total = 0.0
    for one in parts:
        if one is None:
            return None
        total += one
    return total
