"""Why jobs wait, written down: who has no reason yet is told at once, others another one in turn.

A full queue may find thousands of reasons changed by one start. Rewriting them all would take longer than deciding, so
a commit goes round: it rewrites so many and no more, and the next one goes on behind them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.ledger.change import Change
from orchestrator.ledger.life import move
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import WAITING, JobState
from orchestrator.policy.queueing.decisions import Explanation, Waits

_MOST_REASONS = 250


@dataclass(slots=True)
class Teller:
    """`_group` and `_job`: where it goes on, as the first job of those told together, and the last one told."""

    _group: str = ""
    _job: str = ""

    def tell(self, change: Change, waits: tuple[Waits, ...]) -> None:
        """Keep why jobs wait. Those that changed since it was decided are left alone."""
        untold = change.mirror.untold
        for group in waits:
            if untold and not untold.isdisjoint(group.jobs):
                for job_id in untold.intersection(group.jobs):
                    _enter(change, change.mirror.jobs.rows[job_id], group.why)
        self._tell_anew(change, waits)

    def _tell_anew(self, change: Change, waits: tuple[Waits, ...]) -> None:
        rows, left = change.mirror.jobs.rows, _MOST_REASONS
        for first, jobs, why in self._round(waits):
            reason = why.reason.value
            for job_id in jobs:
                job = rows.get(job_id)
                if job is not None and job.reason != reason and job.reason is not None:
                    _enter(change, job, why)
                    left -= 1
                    if not left:
                        self._group, self._job = first, job_id
                        return

    def _round(self, waits: tuple[Waits, ...]) -> Iterator[tuple[str, tuple[str, ...], Explanation]]:
        """Everybody once, from where the last round ended: who leads a group, its jobs, and what they are told."""
        at = bisect_left(waits, self._group, key=_first)
        for group in waits[at : at + 1]:
            yield group.jobs[0], group.jobs[bisect_right(group.jobs, self._job) :], group.why
        for group in (*waits[at + 1 :], *waits[:at]):
            yield group.jobs[0], group.jobs, group.why
        for group in waits[at : at + 1]:
            yield group.jobs[0], group.jobs[: bisect_right(group.jobs, self._job)], group.why


def _first(group: Waits) -> str:
    return group.jobs[0]


def _enter(change: Change, job: JobRow, why: Explanation) -> None:
    """Keep why a job waits. Estimates move with every cycle; they are written when the reason changes."""
    if job.id in change.jobs.changes:
        return
    reason, eta_ms = why.reason.value, None if why.eta_s is None else round(why.eta_s * 1000)
    if job.state is JobState.SUBMITTED:
        move(change, job, JobState.QUEUED, reason=reason, detail=why.detail, eta_ms=eta_ms)
    elif job.state in WAITING:
        change.waits(job, reason, why.detail, eta_ms)
