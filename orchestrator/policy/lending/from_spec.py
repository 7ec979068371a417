"""From a Cluster's `lending` to the terms of one endpoint's pool, with what was measured of its replicas."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.policy.lending.values import Late, RecallTimes, SlowStop, Terms
from orchestrator.policy.queueing.from_spec import windows_of
from orchestrator.spec import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of an endpoint beside the file: its devices in a pool, what a replica serves, how long a recall is.

    `timezone`: whose days its customers keep. `slow`: who of those that train there takes longest to stop; None where
    nobody's stop was seen.
    """

    pool: str
    devices: int
    replica_rps: float
    times: RecallTimes
    devices_per_replica: int = 1
    min_replicas: int = 1
    timezone: str = "UTC"
    slow: SlowStop | None = None


def terms_of(cluster: Cluster, measured: Measured) -> Terms | None:
    """The terms under which an endpoint's devices in a pool are lent; None where the Cluster lends nothing of it."""
    lending = cluster.spec.lending
    if lending is None or measured.pool not in lending.pools:
        return None
    named = [hours for hours in windows_of(cluster) if hours.window.name in lending.windows]
    opening = [hours for hours in named if not hours.pools or measured.pool in hours.pools]
    if named and not opening:
        return None
    times, late = _as_slow(_stretched(measured.times, lending.recall_lead), measured.slow)
    return Terms(
        pool=measured.pool,
        devices=measured.devices,
        devices_per_replica=measured.devices_per_replica,
        replica_rps=measured.replica_rps,
        min_replicas=measured.min_replicas,
        times=times,
        jump_margin=lending.jump_margin,
        min_slice_s=lending.min_slice,
        history_s=lending.history,
        windows=tuple(hours.window for hours in opening),
        grace_s=min((hours.grace_s for hours in opening), default=120.0),
        timezone=measured.timezone,
        late=late,
    )


def _stretched(times: RecallTimes, lead_s: float | None) -> RecallTimes:
    """An operator's lead in place of the measured one: what it gives more or less is given to the drain.

    A lead below snapshot and cold start leaves no drain, and is then as long as these two.
    """
    if lead_s is None:
        return times
    return replace(times, drain_s=max(0.0, lead_s - times.snapshot_s - times.cold_start_s))


def _as_slow(times: RecallTimes, slow: SlowStop | None) -> tuple[RecallTimes, Late | None]:
    """Times in which training can let go, as slow as it was measured to be: at recalls, and at any stop of who trains
    there now. Nobody's word makes a stop quicker, and a device that is late is one that customers miss."""
    allowed_s, took_s, job = times.snapshot_s + times.drain_s, times.left_s, None
    if slow is not None and slow.stop_s > took_s:
        took_s, job = slow.stop_s, slow.job
    if took_s <= allowed_s:
        return times, None
    late = Late(allowed_s=allowed_s, took_s=took_s, job=job)
    return replace(times, drain_s=took_s - times.snapshot_s), late
