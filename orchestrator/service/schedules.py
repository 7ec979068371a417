"""A chore of the leader: jobs that start by a clock are submitted when they are due, each instance once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import structlog

from orchestrator.ledger.experience import Experience
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import ScheduleRow
from orchestrator.ledger.submission import NewJob, experienced, new_job
from orchestrator.policy.schedule import Due, Start, due_instances
from orchestrator.spec import TrainJob, load_text

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Schedules:
    """Looks at every schedule whose next instant has come."""

    ledger: Ledger
    _jobs: dict[tuple[str, int], TrainJob] = field(default_factory=dict)
    _next_s: dict[tuple[str, int, int], float | None] = field(default_factory=dict)

    def __call__(self, now_s: float) -> float | None:
        """Submit what is due; when to look again. Raises: what the ledger raises."""
        rows = self.ledger.schedules()
        jobs = {_key(row): self._jobs.get(_key(row)) or _job(row) for row in rows}
        self._jobs = jobs
        following = [self._look(row, jobs[_key(row)], now_s) for row in rows]
        self._next_s = {key: at_s for key, at_s in self._next_s.items() if key[:2] in jobs}
        return min((at_s for at_s in following if at_s is not None), default=None)

    def _look(self, row: ScheduleRow, job: TrainJob, now_s: float) -> float | None:
        key = (*_key(row), row.looked_ms)
        if key in self._next_s and (self._next_s[key] is None or now_s < (self._next_s[key] or 0.0)):
            return self._next_s[key]
        assert job.spec.schedule is not None, "only scheduled jobs have a row"
        due = due_instances(
            row.name, job.spec.schedule, looked_s=row.looked_ms / 1000, now_s=now_s, running=row.instances
        )
        if due.starts or due.skipped or due.replaced:
            self._submit(row, job, due, now_s)
            self._next_s[(*_key(row), max(row.looked_ms, round(now_s * 1000)))] = due.next_s
        else:
            self._next_s[key] = due.next_s
        return due.next_s

    def _submit(self, row: ScheduleRow, job: TrainJob, due: Due, now_s: float) -> None:
        known = self._known(row.name) if due.starts else None
        jobs = [experienced(self._instance(job, start, now_s), known) for start in due.starts]
        self.ledger.start_due(row, due, jobs, now_s=now_s)
        for start in due.starts:
            log.info("started by schedule", schedule=row.name, job=start.instance.id, reason=start.reason)
        for skip in due.skipped:
            log.warning("not started by schedule", schedule=row.name, job=skip.instance.id, reason=skip.reason)

    def _known(self, schedule: str) -> Experience | None:
        """What the instances before have taught."""
        row = next((one for one in self.ledger.read.schedules() if one.name == schedule), None)
        if row is None or not row.instances:
            return None
        document = json.loads(row.document)
        known = self.ledger.read.experience(dict.fromkeys((one.partition(".")[0] for one in row.instances), document))
        return known[max(known)] if known else None

    def _instance(self, job: TrainJob, start: Start, now_s: float) -> NewJob:
        """The job of one instant: of that name, and without the schedule."""
        found = self.ledger.read.cluster()
        assert found is not None, "jobs are accepted under a Cluster"
        metadata = job.metadata.model_copy(update={"name": start.instance.id})
        spec = job.spec.model_copy(update={"schedule": None})
        return new_job(job.model_copy(update={"metadata": metadata, "spec": spec}), found[1], now_s=now_s)


def _key(row: ScheduleRow) -> tuple[str, int]:
    return row.name, row.created_ms


def _job(row: ScheduleRow) -> TrainJob:
    (job,) = load_text(row.document, where=f"schedule {row.name}")
    assert isinstance(job, TrainJob), "only TrainJobs are submitted"
    return job
