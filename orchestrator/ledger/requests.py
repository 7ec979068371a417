"""What people ask of a job: cancel, pause, resume, pin its size."""

from __future__ import annotations

from orchestrator.ledger.change import Change
from orchestrator.ledger.errors import ConflictError, LedgerError, UnknownJobError
from orchestrator.ledger.life import end, evict, move
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import ENDED, HOLDING, WAITING, JobState, Then
from orchestrator.policy.queueing.decisions import ChangeCause, Evict


def live(change: Change, job_id: str) -> JobRow:
    """A job that has not ended. Raises: UnknownJobError (also for ended ones: they are not in memory)."""
    job = change.jobs.get(job_id)
    if job is None or job.state in ENDED:
        raise UnknownJobError(job_id)
    return job


def cancel(change: Change, job: JobRow, *, grace_s: float) -> None:
    """End a job for good: at once if it holds nothing, else once it has saved its state and gone."""
    if job.state in WAITING:
        end(change, job, JobState.CANCELLED, f"cancelled by {change.actor}")
    elif job.state is JobState.DRAINING:
        job = move(change, job, JobState.DRAINING, then=Then.CANCELLED, detail=f"cancelled by {change.actor}")
        change.event("draining", job, cause=ChangeCause.CANCELLED, then=Then.CANCELLED)
    else:
        evict(change, job, _stop(change, job, ChangeCause.CANCELLED, "cancelled", grace_s), Then.CANCELLED, {})


def pause(change: Change, job: JobRow, *, grace_s: float) -> None:
    """Save state and give devices back until somebody resumes it; budget and deadline clocks run on."""
    if job.state is JobState.PAUSED or (job.state is JobState.DRAINING and job.then is not Then.QUEUED):
        return
    if job.state in WAITING:
        job = move(change, job, JobState.PAUSED, reason=None, eta_ms=None, detail=f"paused by {change.actor}")
        change.claims.drop(job.id)
        change.promises.drop(job.id)
        change.event("paused", job)
    elif job.state is JobState.DRAINING:
        move(change, job, JobState.DRAINING, then=Then.PAUSED, detail=f"paused by {change.actor}")
    else:
        evict(change, job, _stop(change, job, ChangeCause.PAUSED, "paused", grace_s), Then.PAUSED, {})


def resume(change: Change, job: JobRow) -> None:
    """Let a paused job wait for devices again; one that is not paused stays as it is. Raises: ConflictError."""
    if job.state is JobState.PAUSED:
        job = move(change, job, JobState.QUEUED, reason=None, detail=f"resumed by {change.actor}")
        change.event("resumed", job)
    elif job.state is JobState.DRAINING and job.then is Then.PAUSED:
        move(change, job, JobState.DRAINING, then=Then.QUEUED, detail=f"resumed by {change.actor}")
    elif job.state is JobState.DRAINING and job.then is Then.CANCELLED:
        raise ConflictError(f"job {job.id!r} is being cancelled", next_step="Submit it again once it is gone")


def pin(change: Change, job: JobRow, workers: int | None) -> None:
    """Hold a job at a size until it is None again. Raises: LedgerError for a size outside min..max."""
    low, high = job.shape.sizes[0], job.shape.sizes[-1]
    if workers is not None and not low <= workers <= high:
        want = f"it must be {low}..{high}" if low < high else f"it must be {low}"
        raise LedgerError(f"workers: {workers} is outside the job's range; {want}", where=job.id)
    if workers != job.pinned_workers:
        job = move(change, job, job.state, pinned_workers=workers)
        change.event("pinned" if workers is not None else "unpinned", job, workers=workers)


def _stop(change: Change, job: JobRow, cause: ChangeCause, word: str, grace_s: float) -> Evict:
    assert job.state in HOLDING, f"{job.id} is {job.state} and holds nothing"
    until_s = change.now_ms / 1000 + grace_s
    detail = f"{word} by {change.actor}"
    return Evict(job=job.id, cause=cause, detail=detail, drain_until_s=until_s, requeue=word == "paused")
