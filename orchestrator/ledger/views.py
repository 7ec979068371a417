"""Rows as the queues see them."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.ledger.rows import JobRow, JobShape, LeaseRow
from orchestrator.ledger.states import JobState, Unit
from orchestrator.policy.queueing.orders import Report
from orchestrator.policy.queueing.parties import NOTHING, Purse
from orchestrator.policy.queueing.values import UNLIMITED, Job, Lease, Spending


def job_value(row: JobRow, unmet: tuple[str, ...] = (), *, accrued_ms: int = 0, accrued_micro_usd: int = 0) -> Job:
    """A job; `accrued_*` is what its open leases have cost so far, which the row does not know yet."""
    shape = row.shape
    return Job(
        id=row.id,
        queue=row.queue,
        tenant=row.tenant,
        priority=row.priority,
        submitted_s=row.submitted_ms / 1000,
        sizes=shape.sizes if row.pinned_workers is None else (row.pinned_workers,),
        resource=shape.resource,
        devices_per_worker=shape.devices_per_worker,
        coupling=shape.coupling,
        window=shape.window,
        deadline_s=shape.deadline_s,
        work_s=row.work_left_s,
        steps_left=None if shape.steps is None else max(0, shape.steps - row.steps_done),
        min_slice_s=shape.min_slice_s,
        spending=_spending(row, shape, accrued_ms, accrued_micro_usd),
        unmet=unmet,
        active=row.state is not JobState.PAUSED,
        serves=shape.kind == "Endpoint",
    )


def _spending(row: JobRow, shape: JobShape, accrued_ms: int, accrued_micro_usd: int) -> Spending:
    usd, time = shape.budget_micro_usd, shape.budget_device_ms
    if usd is None and time is None:
        return UNLIMITED
    return Spending(
        micro_usd=None if usd is None else usd - row.spent_micro_usd - accrued_micro_usd,
        device_ms=None if time is None else time - row.spent_device_ms - accrued_ms,
    )


def reserved_value(row: JobRow) -> Purse:
    """What is set aside for a job; the same `NOTHING` for all that have nothing. What its steps are worth is not its
    tenant's money."""
    if not (row.reserved_micro_usd or row.reserved_device_ms or row.reserved_iterations):
        return NOTHING
    if row.paid_in is Unit.ITERATIONS:
        return Purse(iterations=row.reserved_iterations)
    return Purse(micro_usd=row.reserved_micro_usd, device_ms=row.reserved_device_ms, iterations=row.reserved_iterations)


def lease_value(row: LeaseRow) -> Lease:
    """A lease."""
    return Lease(
        holder=row.holder,
        pool=row.pool,
        nodes=row.nodes,
        since_s=row.since_ms / 1000,
        state=row.state,
        until_s=None if row.until_ms is None else row.until_ms / 1000,
        queue=row.queue,
        tenant=row.tenant,
    )


def with_report(row: JobRow, report: Report | None) -> JobRow:
    """A running job's row with the progress that its attempt told last."""
    if report is None or report.attempt != row.attempt:
        return row
    left_s = row.work_left_s if report.work_left_s is None else report.work_left_s
    return replace(row, steps_done=max(row.steps_done, report.steps_done), work_left_s=left_s)
