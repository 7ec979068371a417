"""How far a running job is, how fast it goes and when it will be done, from what its attempt said last."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ledger.rows import JobRow
from orchestrator.policy.queueing.orders import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """As of `heard_ms`. None where nothing was measured yet, or where the job does not run."""

    heard_ms: int
    steps_done: int
    steps_per_s: float | None
    finish_ms: int | None


def progress_of(row: JobRow, heard: tuple[Report, int] | None, workers: int) -> Progress | None:
    """What a report says of the attempt that runs; None for one of another attempt.

    The work that is left is told in worker-seconds at the present speed: shared by the present workers, it is the time
    that is left.
    """
    if heard is None or heard[0].attempt != row.attempt:
        return None
    report, at_ms = heard
    done = max(row.steps_done, report.steps_done)
    left = None if row.shape.steps is None else row.shape.steps - done
    rate = finish_ms = None
    if report.work_left_s and workers:
        left_s = report.work_left_s / workers
        finish_ms = at_ms + round(left_s * 1000)
        rate = left / left_s if left else None
    return Progress(heard_ms=at_ms, steps_done=done, steps_per_s=rate, finish_ms=finish_ms)
