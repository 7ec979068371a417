"""What runners report, as changes: attempts that run, attempts that ended, and what becomes of their jobs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from orchestrator.ledger.books import close_lease, pay_steps, settle_attempt
from orchestrator.ledger.change import Change
from orchestrator.ledger.life import current, end, lost_once_more, requeue, restart
from orchestrator.ledger.life import move as move_job
from orchestrator.ledger.rows import AttemptRow, JobRow
from orchestrator.ledger.shelf import dumps
from orchestrator.ledger.states import JobState, Outcome, Then, Unit
from orchestrator.policy.queueing.orders import Phase, Report

_OUTCOMES = {
    Phase.SUCCEEDED: Outcome.SUCCEEDED,
    Phase.FAILED: Outcome.FAILED,
    Phase.STOPPED: Outcome.STOPPED,
    Phase.LOST: Outcome.LOST,
}
_BEFORE_RUNNING = frozenset({JobState.ADMITTED, JobState.STARTING, JobState.RESIZING})


def enter(change: Change, report: Report, held: Collection[str] = ()) -> None:
    """Enter one report; one that says nothing new changes nothing. `held`: queues that are on hold."""
    job, attempt = change.jobs.get(report.job), change.attempts.get((report.job, report.attempt))
    if job is None or attempt is None or attempt.ended_ms is not None:
        return
    if report.over:
        _end_older(change, job, report.attempt)
        _over(change, current(change, job), attempt, report, held)
    elif report.phase is Phase.RUNNING and attempt.running_ms is None:
        _end_older(change, job, report.attempt)
        _runs(change, current(change, job), attempt)


def _runs(change: Change, job: JobRow, attempt: AttemptRow) -> None:
    sent_ms = change.now_ms if attempt.sent_ms is None else attempt.sent_ms
    change.attempts.put(replace(attempt, sent_ms=sent_ms, running_ms=change.now_ms))
    if job.attempt == attempt.attempt and job.state in _BEFORE_RUNNING:
        job = move_job(change, job, JobState.RUNNING)
        change.event("running", job, workers=attempt.world_size)


def _end_older(change: Change, job: JobRow, attempt: int) -> None:
    """A job has one group of workers: where a later attempt is heard of, earlier ones are over."""
    for number in range(attempt - 1, 0, -1):
        row = change.attempts.get((job.id, number))
        if row is None:
            return
        if row.ended_ms is not None:
            continue
        _close(change, job.id, row, Report(job=job.id, attempt=number, phase=Phase.STOPPED), Outcome.REPLACED)


def _over(change: Change, job: JobRow, attempt: AttemptRow, report: Report, held: Collection[str]) -> None:
    ended = _close(change, job.id, attempt, report, _OUTCOMES[report.phase])
    job = _progress(change, current(change, job), ended, report)
    if report.phase is Phase.SUCCEEDED:
        _end_older(change, job, job.attempt + 1)
        job = current(change, job)
        end(change, job, JobState.SUCCEEDED, report.detail)
    elif attempt.attempt < job.attempt:
        change.event("attempt-ended", job, ended=attempt.attempt, outcome=ended.outcome)
    elif job.state is JobState.DRAINING:
        _drained(change, job)
    elif report.phase is Phase.FAILED:
        _failed(change, job, ended, final=report.final, on_hold=job.queue in held and job.shape.kind != "Endpoint")
    else:
        job, then = lost_once_more(job)
        _become(change, job, then, "lost", report.detail)


def _failed(change: Change, job: JobRow, attempt: AttemptRow, *, final: bool, on_hold: bool) -> None:
    """Try again at once on the same seats. A queue on hold begins nothing, so there it waits like everybody; an
    endpoint that serves already goes on, for a hold is no reason to refuse requests."""
    job = replace(job, failures=job.failures + 1)
    if final or job.failures > job.shape.max_failures:
        end(change, _put(change, job), JobState.FAILED, f"attempt {attempt.attempt} failed: {attempt.detail}")
    elif on_hold:
        failed = f"attempt {attempt.attempt} failed while queue {job.queue!r} was on hold: {attempt.detail}"
        requeue(change, _put(change, replace(job, detail=failed)), JobState.QUEUED, "requeued", detail=failed)
    else:
        restart(change, job, attempt)


def _drained(change: Change, job: JobRow) -> None:
    assert job.then is not None, f"{job.id} drains to no end"
    _become(change, job, job.then, "requeued", job.detail)


def _become(change: Change, job: JobRow, then: Then, event: str, detail: str) -> None:
    match then:
        case Then.QUEUED:
            requeue(change, job, JobState.QUEUED, event)
        case Then.PAUSED:
            # Only what drains may be paused; the state before is DRAINING.
            requeue(change, job, JobState.PAUSED, "paused")
        case Then.CANCELLED:
            end(change, _put(change, job), JobState.CANCELLED, detail)
        case Then.FAILED:
            end(change, _put(change, job), JobState.FAILED, detail)


def _close(change: Change, job_id: str, attempt: AttemptRow, report: Report, outcome: Outcome) -> AttemptRow:
    """Give back what an attempt (and any before it) held, and part its time into what it was good for."""
    for lease in change.leases_of(job_id):
        if lease.attempt <= attempt.attempt:
            close_lease(change, lease)
    row, job = change.attempts.get((job_id, attempt.attempt)), change.jobs.get(job_id)
    assert row is not None, "it was there before its leases were closed"
    assert job is not None, "an attempt without a job"
    ms = 1000 * job.shape.devices_per_worker
    stalled_ms = round(sum(seconds for _, seconds in report.stalled_worker_s) * ms)
    # What never ran did nothing useful with what it held.
    if row.running_ms is None and not report.steps_done:
        stalled_ms = sum(held for _, held in row.held_ms)
    row = settle_attempt(change, row, stalled_ms, round(report.lost_worker_s * ms))
    ended = replace(
        row,
        ended_ms=change.now_ms,
        outcome=outcome,
        detail=report.detail,
        stall_parts=dumps(dict(report.stalled_worker_s)),
    )
    change.attempts.put(ended)
    return ended


def _progress(change: Change, job: JobRow, attempt: AttemptRow, report: Report) -> JobRow:
    steps = max(job.steps_done, report.steps_done)
    if job.paid_in is Unit.ITERATIONS and steps > job.steps_done:
        pay_steps(change, job, steps - job.steps_done, attempt)
        job = current(change, job)
    work_left_s = job.work_left_s if report.work_left_s is None else report.work_left_s
    return _put(change, replace(job, steps_done=steps, work_left_s=work_left_s))


def _put(change: Change, job: JobRow) -> JobRow:
    change.jobs.put(job)
    return job
