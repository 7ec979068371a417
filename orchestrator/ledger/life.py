"""The life of a job as changes of its rows: admitted, resized, drained, restarted, ended. Nothing is decided here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.ledger.books import close_lease, open_lease, refund, reserve, worth_of_steps
from orchestrator.ledger.change import Change
from orchestrator.ledger.fast import changed
from orchestrator.ledger.rows import AttemptRow, JobRow, LeaseRow, OrderRow
from orchestrator.ledger.shelf import dumps
from orchestrator.ledger.states import ALLOWED, ENDED, Cause, JobState, Then, Unit
from orchestrator.policy.queueing.decisions import (
    Admit,
    ChangeCause,
    Evict,
    Placement,
    Resize,
    Seats,
    StartReason,
    workers_in,
)
from orchestrator.policy.queueing.parties import Purse
from orchestrator.policy.queueing.record import to_text
from orchestrator.policy.queueing.values import LeaseState

Spot = tuple[str, str]
Missing = dict[Spot, int]
"""Devices that are leased and not there any more, by (pool, node)."""

OWN_WISH = frozenset({ChangeCause.CANCELLED, ChangeCause.PAUSED, ChangeCause.WINDOW_CLOSED, ChangeCause.BUDGET_SPENT})
"""Causes that are no preemption: the job's owner wanted them, or knew of them."""


def move(change: Change, job: JobRow, state: JobState, **fields: Any) -> JobRow:
    """Give a job a new state. The caller's row must be the newest of this change."""
    assert state is job.state or state in ALLOWED[job.state], f"{job.id} cannot go from {job.state} to {state}"
    moved = changed(job, state=state, changed_ms=change.now_ms, version=job.version + 1, **fields)
    change.jobs.put(moved)
    return moved


def admit(change: Change, job: JobRow, what: Admit) -> None:
    """Lease the seats of a start, set its money aside, and order it."""
    unit, amount = _one_unit(what.reserve)
    if unit is not None:
        worth = worth_of_steps(change, job, _devices(job, what.placement)) if unit is Unit.ITERATIONS else 0
        job = reserve(change, job, unit, amount, worth=worth)
    attempt = job.attempt + 1
    cause = Cause.START if attempt == 1 else Cause.PREEMPTED if job.preemptions else Cause.RESUMED
    gone = {"reason": None, "eta_ms": None, "detail": what.detail}
    job = move(change, job, JobState.ADMITTED, attempt=attempt, started_ms=change.now_ms, **gone)
    _begin(change, job, cause, what.placement)
    _order(change, job, what)
    change.event("admitted", job, reason=what.reason, workers=workers_in(what.placement))


def resize(change: Change, job: JobRow, what: Resize, missing: Missing) -> None:
    """Seats that stay are held on, others drain; a new attempt is ordered on the new ones."""
    kept = seats_of(job, what.placement)
    for lease in change.leases_of(job.id):
        if lease.state is LeaseState.HELD:
            close_lease(change, lease)
            _drain(change, lease, kept.get(lease.pool, {}), what.drain_until_s, missing)
    job = current(change, job)
    job = move(change, job, JobState.RESIZING, attempt=job.attempt + 1, resizes=job.resizes + 1, detail=what.detail)
    _begin(change, job, Cause.RESIZE, what.placement)
    _order(change, job, what)
    change.event("resizing", job, cause=what.cause, workers=workers_in(what.placement), for_job=what.for_job)


def evict(change: Change, job: JobRow, what: Evict, then: Then, missing: Missing) -> None:
    """Everything drains; the stop is ordered."""
    for lease in change.leases_of(job.id):
        if lease.state is LeaseState.HELD:
            close_lease(change, lease)
            _drain(change, lease, {}, what.drain_until_s, missing)
    job = current(change, job)
    preempted = then is Then.QUEUED and what.cause not in OWN_WISH
    if preempted:
        job, then = _count_preemption(job)
    job = move(change, job, JobState.DRAINING, then=then, detail=what.detail)
    change.tempos.drop(job.id)
    _order(change, job, what, suffix="-stop")
    change.event("preempted" if preempted else "draining", job, cause=what.cause, then=then, for_job=what.for_job)


def restart(change: Change, job: JobRow, failed: AttemptRow) -> None:
    """Try again on the seats that a failed attempt had."""
    placement = placement_of(failed)
    job = move(change, job, JobState.ADMITTED, attempt=job.attempt + 1, detail=failed.detail)
    _begin(change, job, Cause.RESTART, placement)
    detail = f"restart {job.failures} of {job.shape.max_failures}: {failed.detail}"
    _order(change, job, Admit(job=job.id, placement=placement, reason=StartReason.IN_ORDER, detail=detail))
    change.event("restarting", job, detail=failed.detail, failures=job.failures)


def requeue(change: Change, job: JobRow, state: JobState, event: str, **data: object) -> None:
    """Back to those who wait; what was set aside goes back."""
    job = refund(change, job)
    job = move(change, job, state, then=None, started_ms=None, reason=None, eta_ms=None)
    change.tempos.drop(job.id)
    change.event(event, job, **data)


def end(change: Change, job: JobRow, state: JobState, detail: str) -> None:
    """The end of a job: nothing is held, set aside, ordered or promised for it any more."""
    assert state in ENDED, f"{state} is no end"
    for lease in change.leases_of(job.id):
        close_lease(change, lease)
    job = refund(change, current(change, job))
    job = move(change, job, state, then=None, ended_ms=change.now_ms, reason=None, eta_ms=None, detail=detail)
    _drop_orders(change, job.id)
    for draft in (change.claims, change.promises, change.tempos):
        draft.drop(job.id)
    change.event(state.value, job, detail=detail)


def lost_once_more(job: JobRow) -> tuple[JobRow, Then]:
    """A job whose devices went without an order: counted as a preemption."""
    return _count_preemption(job)


def current(change: Change, job: JobRow) -> JobRow:
    """A job's row as it is in this change by now."""
    row = change.jobs.get(job.id)
    assert row is not None, f"{job.id} is not there"
    return row


def seats_of(job: JobRow, placement: Placement) -> dict[str, dict[str, int]]:
    """Devices of a placement, by pool and node."""
    found: dict[str, dict[str, int]] = {}
    for seats in placement:
        nodes = found.setdefault(seats.pool, {})
        nodes[seats.node] = nodes.get(seats.node, 0) + seats.workers * job.shape.devices_per_worker
    return found


def _devices(job: JobRow, placement: Placement) -> dict[str, int]:
    return {pool: sum(nodes.values()) for pool, nodes in sorted(seats_of(job, placement).items())}


def placement_of(attempt: AttemptRow) -> Placement:
    """The seats an attempt was given."""
    return tuple(Seats(pool, node, workers) for pool, node, workers in json.loads(attempt.placement))


def _count_preemption(job: JobRow) -> tuple[JobRow, Then]:
    count, most = job.preemptions + 1, job.shape.max_preemptions
    return replace(job, preemptions=count), Then.FAILED if most is not None and count > most else Then.QUEUED


def _begin(change: Change, job: JobRow, cause: Cause, placement: Placement) -> None:
    row = AttemptRow(
        job=job.id,
        attempt=job.attempt,
        cause=cause,
        world_size=workers_in(placement),
        placement=dumps([[seats.pool, seats.node, seats.workers] for seats in placement]),
        ordered_ms=change.now_ms,
        start_step=job.steps_done,
    )
    change.attempts.put(row)
    for pool, nodes in sorted(seats_of(job, placement).items()):
        _lease(change, job, job.attempt, pool, nodes, LeaseState.HELD, None)


def _lease(
    change: Change,
    job: JobRow,
    attempt: int,
    pool: str,
    nodes: Mapping[str, int],
    state: LeaseState,
    until_ms: int | None,
) -> None:
    lease = LeaseRow(
        id=change.new_lease_id(),
        holder=job.id,
        attempt=attempt,
        pool=pool,
        nodes=tuple(sorted(nodes.items())),
        since_ms=change.now_ms,
        state=state,
        until_ms=until_ms,
        queue=job.queue,
        tenant=job.tenant,
    )
    open_lease(change, lease)


def _drain(change: Change, lease: LeaseRow, kept: Mapping[str, int], until_s: float, missing: Missing) -> None:
    """What a lease that was closed had beyond `kept` drains; devices that are missing are gone at once."""
    draining: dict[str, int] = {}
    for node, devices in lease.nodes:
        gone = devices - min(devices, kept.get(node, 0))
        vanished = min(gone, missing.get((lease.pool, node), 0))
        if vanished:
            missing[lease.pool, node] -= vanished
        if gone > vanished:
            draining[node] = gone - vanished
    if draining:
        job = change.jobs.get(lease.holder)
        assert job is not None, f"lease {lease.id} without a holder"
        until_ms = round(until_s * 1000)
        _lease(change, job, lease.attempt, lease.pool, draining, LeaseState.DRAINING, until_ms)


def _order(change: Change, job: JobRow, what: Admit | Resize | Evict, suffix: str = "") -> None:
    """The newest order of a job is the only one: what was not sent before it need not be sent any more."""
    _drop_orders(change, job.id)
    order = OrderRow(
        id=f"{job.id}-a{job.attempt}{suffix}",
        job=job.id,
        attempt=job.attempt,
        body=to_text(what),
        created_ms=change.now_ms,
    )
    change.orders.put(order)


def _drop_orders(change: Change, job_id: str) -> None:
    for row in change.orders.of(job_id):
        change.orders.drop(row.id)


def _one_unit(reserve: Purse) -> tuple[Unit | None, int]:
    """A start is paid for in one unit only."""
    for unit in Unit:
        amount: int = getattr(reserve, unit.value)
        if amount:
            return unit, amount
    return None, 0
