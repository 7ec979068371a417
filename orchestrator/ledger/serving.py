"""What lending asks of the books: endpoints that hold devices, and how many devices training could use beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.ledger.mirror import Mirror
from orchestrator.ledger.rows import JobRow, LeaseRow
from orchestrator.policy.lending.values import SlowStop
from orchestrator.policy.queueing.decisions import WaitReason

_LACKS_DEVICES = frozenset(
    {
        WaitReason.TOPOLOGY_PLACEMENT_FAILED,
        WaitReason.WAITING_FOR_PREEMPTED,
        WaitReason.SERVE_HEADROOM,
        WaitReason.BACKFILL_RESERVATION,
        WaitReason.GANG_INCOMPLETE,
        WaitReason.PENDING_EVALUATION,
    }
)
"""Reasons to wait that more devices take away."""


@dataclass(frozen=True, slots=True)
class Serving:
    """An endpoint that holds devices, with its leases and the devices that each pool was last seen to have."""

    row: JobRow
    leases: tuple[LeaseRow, ...]
    observed: Mapping[str, int]


def endpoints(mirror: Mirror) -> tuple[Serving, ...]:
    """All of them."""
    observed = {meter.pool: meter.observed for meter in mirror.meters.rows.values()}
    return tuple(
        Serving(row, _leases(mirror, row), observed)
        for row in (mirror.jobs.rows[job] for job in sorted(mirror.holding))
        if row.shape.kind == "Endpoint"
    )


def appetite(mirror: Mirror, pool: str, resource: str, enough: int) -> int:
    """Devices of a pool that training could use in all, or `enough` where it is that much.

    Counted: what running jobs there could grow to, and waiting ones that lack nothing but devices.
    """
    total = 0
    for row in (mirror.jobs.rows[job] for job in mirror.holding):
        if row.shape.kind != "Endpoint" and any(lease.pool == pool for lease in _leases(mirror, row)):
            total += (row.pinned_workers or row.shape.sizes[-1]) * row.shape.devices_per_worker
    queues = {one.name for one in mirror.facts.queues if any(quota.pool == pool for quota in one.quotas)}
    for job in mirror.waiting.values():
        if total >= enough:
            return enough
        lacks = mirror.jobs.rows[job.id].reason
        fits = not job.serves and job.active and job.resource == resource and job.queue in queues
        if fits and (lacks is None or lacks in _LACKS_DEVICES):
            total += job.sizes[-1] * job.devices_per_worker
    return min(total, enough)


def slowest_stop(mirror: Mirror, pool: str, not_of: str | None = None) -> SlowStop | None:
    """Of the jobs that hold devices of a pool, and are not of that tenant, the one whose own stops take longest; None
    where nobody's were seen."""
    slowest: SlowStop | None = None
    for job in sorted(mirror.holding):
        report = mirror.reports.get(job)
        stop_s = report.measured.slow_stop_s if report is not None and report.measured is not None else None
        if stop_s is None or (slowest is not None and stop_s <= slowest.stop_s):
            continue
        row = mirror.jobs.rows[job]
        if row.tenant != not_of and any(lease.pool == pool for lease in _leases(mirror, row)):
            slowest = SlowStop(job=job, stop_s=stop_s)
    return slowest


def _leases(mirror: Mirror, row: JobRow) -> tuple[LeaseRow, ...]:
    return tuple(mirror.leases.of(row.id))
