"""What a deadline asks: the latest start, the smallest size that still keeps it, and who is in a hurry.

Work is linear in workers here; the planner's step time is folded into `work_s` by whoever makes the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.policy.queueing.values import Job
from orchestrator.policy.windows import Window, current, upcoming


def latest_start_s(job: Job) -> float:
    """When it must run at its largest size at the latest; without a deadline or an estimate there is no such time."""
    if job.deadline_s is None or job.work_s is None:
        return float("inf")
    return job.deadline_s - job.work_s / job.sizes[-1]


def urgent(job: Job, *, now_s: float, urgent_s: float) -> bool:
    """Whether a job goes before others of its tenant and class: its latest start is near, and can still be kept."""
    return now_s <= latest_start_s(job) <= now_s + urgent_s


def floor_workers(job: Job, *, now_s: float) -> int:
    """The smallest useful size that keeps the deadline from now on: reserved for the job against fairness.

    A deadline that no size keeps reserves nothing beyond the minimum: taking from others would not save it.
    """
    if job.deadline_s is None or job.work_s is None:
        return job.sizes[0]
    left_s = job.deadline_s - now_s
    keeping = (size for size in job.sizes if job.work_s <= left_s * size)
    return next(keeping, job.sizes[0])


def earliest_finish_s(run_s: float, *, now_s: float, window: Window | None = None) -> float | None:
    """When `run_s` seconds of running are over at the earliest; with a window, only while it is open.

    None where the window does not open for so long within a year.
    """
    if window is None:
        return now_s + run_s
    for opens_s, closes_s in _open(window, now_s):
        if run_s <= closes_s - opens_s:
            return opens_s + run_s
        run_s -= closes_s - opens_s
    return None


def _open(window: Window, now_s: float) -> Iterator[tuple[float, float]]:
    """Stretches of time from now on in which a window is open, none twice."""
    at_s, first = now_s, current(window, now_s=now_s)
    for found in (*([first] if first else []), *upcoming(window, now_s=now_s)):
        if found.closes_at_s > at_s:
            yield max(at_s, found.opens_at_s), found.closes_at_s
            at_s = found.closes_at_s
