"""What a deadline asks: the latest start, the smallest size that still keeps it, and who is in a hurry.

Work is linear in workers here; the planner's step time is folded into `work_s` by whoever makes the snapshot.
"""

from __future__ import annotations

from orchestrator.policy.queueing.values import Job


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
