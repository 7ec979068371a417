"""Why jobs wait, as this server decided it last. Where thousands of reasons change at once the books follow some cycles
behind (`ledger.telling`); whoever lists jobs is told what holds now, and nothing is asked of the cycle for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from orchestrator.api.watch import WatchedLedger
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import WAITING
from orchestrator.policy.queueing.decisions import Decisions, Explanation
from orchestrator.policy.queueing.values import Snapshot


@dataclass(frozen=True, slots=True)
class _Told:
    snapshot: Snapshot
    decisions: Decisions
    by_job: dict[str, Explanation]


@dataclass(slots=True)
class Reasons:
    """The last decision, by job; looked up once for each decision that somebody asks about. On any thread."""

    watched: WatchedLedger
    _told: _Told | None = None

    def newest(self, row: JobRow) -> tuple[JobRow, float | None]:
        """A row with the reason that was decided last, and when that was (UTC seconds); None: only the books say it.

        A job that has changed since the decision is what its row says.
        """
        told = self._now()
        why = None if told is None or row.state not in WAITING else told.by_job.get(row.id)
        if told is None or why is None:
            return row, None
        if row.changed_ms >= told.snapshot.now_s * 1000:
            # By the decision itself, or since.
            return row, told.snapshot.now_s if row.reason == why.reason.value else None
        eta_ms = None if why.eta_s is None else round(why.eta_s * 1000)
        return replace(row, reason=why.reason.value, detail=why.detail, eta_ms=eta_ms), told.snapshot.now_s

    def counts(self, tenant: str | None = None) -> Counter[tuple[str, str]] | None:
        """Jobs that wait by queue and reason; of one tenant, or all. None where this server does not decide."""
        told = self._now()
        if told is None:
            return None
        found: Counter[tuple[str, str]] = Counter()
        for job in told.snapshot.waiting:
            why = told.by_job.get(job.id)
            if why is not None and tenant in (None, job.tenant):
                found[job.queue, why.reason.value] += 1
        return found

    def _now(self) -> _Told | None:
        decided, told = self.watched.decided, self._told
        if decided is None:
            return None
        if told is None or told.decisions is not decided[1]:
            by_job = {job: group.why for group in decided[1].waits for job in group.jobs}
            told = self._told = _Told(*decided, by_job)
        return told
