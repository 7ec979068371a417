"""The ledger: the one way in which state changes. What it offers, by who uses it:

- a server that leads: `lead` (again and again), then `apply`, `submit`, `cancel`, `pause`, `resume`, `pin`,
  `hold_queue`, `hold_node`, `release_node`, `issue_key`, `revoke_key`;
- the control cycle (`ports.Ledger`): `record`, `snapshot`, `commit`, `unsent`, `sent`;
- everybody, also servers that do not lead: `read` (`reading.Reader`), which never waits for a writer.

Leading itself, and how a change becomes one transaction: `leading.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from orchestrator.ledger import faults, notices, retention, schedules, submission
from orchestrator.ledger.change import SYSTEM, Change
from orchestrator.ledger.clusters import apply_cluster, set_hold
from orchestrator.ledger.database import Database
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.facts import DEFAULT_RULES
from orchestrator.ledger.group import GroupCommit
from orchestrator.ledger.keys import ApiKey, Role, issue_key, revoke_key
from orchestrator.ledger.leading import PATIENCE_S, Leading
from orchestrator.ledger.node_holds import Holds, hold_node, release_node
from orchestrator.ledger.reports import enter as enter_report
from orchestrator.ledger.requests import cancel, live, pause, pin, resume
from orchestrator.ledger.rows import ScheduleRow
from orchestrator.ledger.serving import Serving, appetite, endpoints, slowest_stop
from orchestrator.ledger.shelf import dumps
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import Accepted, Submission
from orchestrator.policy.lending.session import Ending
from orchestrator.policy.lending.values import SlowStop
from orchestrator.policy.node_health import NodeHold
from orchestrator.policy.queueing.decisions import Decisions
from orchestrator.policy.queueing.orders import Order, Report
from orchestrator.policy.queueing.parties import Queue, Rules
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.record import from_text
from orchestrator.policy.queueing.values import Snapshot
from orchestrator.policy.schedule import Due
from orchestrator.spec import Cluster


class Ledger(Leading):
    """Durable state behind one database."""

    def __init__(
        self,
        url: str | Database,
        *,
        holder: str,
        clock: Callable[[], float],
        rules: Rules = DEFAULT_RULES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(url, holder=holder, clock=clock, rules=rules, patience_s=patience_s)
        self._submit = GroupCommit(self.submit_all)

    # --- What people ask ---------------------------------------------------------------------------------------------

    def apply(self, cluster: Cluster, *, actor: str = SYSTEM) -> int:
        """Make a Cluster the one that holds from now on; return its generation. The same again changes nothing."""
        with self._change("apply", actor) as change:
            facts = apply_cluster(change, cluster, self._rules)
        with self._lock:
            self._mirror.facts = facts
            return facts.generation

    def submit(
        self, *jobs: submission.NewJob, actor: str = SYSTEM, scope: str = "", key: str | None = None
    ) -> Accepted:
        """Accept jobs, all or none; when this returns, they are on the disk. Safe to call from many threads at once.

        Raises: ConflictError for a name that is in use, or a key that came with another body.
        """
        return self._submit(Submission(jobs=jobs, actor=actor, scope=scope, key=key))

    def submit_all(self, submissions: Sequence[Submission]) -> list[Accepted | BaseException]:
        """Carry out submissions in one transaction; each is answered with what was accepted, or with its own error."""
        answers: list[Accepted | BaseException] = []
        with self._change("submit", SYSTEM) as change:
            with self.database.reading() as connection:
                known = submission.answers(connection, submissions)
                runs = submission.latest_runs(connection, submissions)
                documents = submission.running_documents(connection, submissions, runs)
            for one in submissions:
                try:
                    found = submission.replayed(one, known)
                    accepted = found or submission.enter(change, one, runs, documents)
                except LedgerError as error:
                    answers.append(error)
                    continue
                answers.append(accepted)
                if one.key is not None:
                    known[one.scope, one.key] = (one.body_hash, dumps(accepted.ids))
            dependent = [row for row in change.jobs.changes.values() if row is not None and row.shape.after]
            if dependent:
                with self.database.reading() as connection:
                    self._mirror.await_names(connection, dependent)
        return answers

    def cancel(self, job_id: str, *, actor: str = SYSTEM) -> None:
        """End a job for good; of one that starts by a schedule, start no more. Raises: UnknownJobError (also if it has
        ended)."""
        with self._change("cancel", actor) as change:
            if not schedules.remove(change, job_id):
                cancel(change, live(change, job_id), grace_s=self._facts.rules.drain_grace_s)

    def pause(self, job_id: str, *, actor: str = SYSTEM) -> None:
        """Let a job save its state and give everything back until it is resumed. Raises: UnknownJobError."""
        with self._change("pause", actor) as change:
            pause(change, live(change, job_id), grace_s=self._facts.rules.drain_grace_s)

    def resume(self, job_id: str, *, actor: str = SYSTEM) -> None:
        """Let a paused job wait for devices again. Raises: UnknownJobError, ConflictError."""
        with self._change("resume", actor) as change:
            resume(change, live(change, job_id))

    def pin(self, job_id: str, workers: int | None, *, actor: str = SYSTEM) -> None:
        """Hold a job at a size, or (None) let it follow capacity. Raises: UnknownJobError, LedgerError."""
        with self._change("pin", actor) as change:
            pin(change, live(change, job_id), workers)

    def hold_queue(self, queue: str, on_hold: bool, *, actor: str = SYSTEM) -> None:
        """Begin nothing more from a queue, restarts of failed attempts included, or go on. Raises: LedgerError for a
        queue that is not there."""
        with self._change("hold-queue", actor) as change:
            held = set_hold(change, queue, on_hold, self._seer.held)
        self._seer.held = held

    def hold_node(self, hold: NodeHold, *, actor: str = SYSTEM) -> None:
        """Give a node nothing new and let what runs there go elsewhere, from the next cycle on."""
        with self._change("hold-node", actor) as change:
            held = hold_node(change, hold, self._node_holds)
        self._node_holds = held

    def release_node(self, node: str, *, detail: str = "", actor: str = SYSTEM) -> None:
        """Let a node work again. Raises: LedgerError for one that is not held back."""
        with self._change("release-node", actor) as change:
            held = release_node(change, node, detail, self._node_holds)
        self._node_holds = held

    @property
    def node_holds(self) -> Holds:
        """Nodes that are held back; the same object until that changes. Of whoever leads."""
        return self._node_holds

    def issue_key(
        self, tenant: str, role: Role, *, note: str = "", expires_s: float | None = None, actor: str
    ) -> ApiKey:
        """A new API key; its secret is in the answer and nowhere else."""
        with self._change("issue-key", actor) as change:
            return issue_key(change, tenant, role, note=note, expires_s=expires_s)

    def revoke_key(self, key_id: str, *, actor: str) -> None:
        """Refuse a key from now on. Raises: LedgerError if there is none."""
        with self._change("revoke-key", actor) as change:
            known = {key.id for key in self.read.api_keys()}
            revoke_key(change, key_id, known)

    def endpoints(self) -> tuple[Serving, ...]:
        """Endpoints that hold devices. Raises: NotLeadingError."""
        with self._lock:
            self._lead_or_raise()
            return endpoints(self._mirror)

    def nightly(self) -> tuple[str, ...]:
        """Training jobs that wait for a window, by id. Raises: NotLeadingError."""
        with self._lock:
            self._lead_or_raise()
            rows = self._mirror.jobs.rows
            found = (job.id for job in self._mirror.waiting.values() if job.window is not None)
            return tuple(job for job in found if rows[job].shape.kind == "TrainJob")

    def stage(self, unstaged: frozenset[str], endings: Mapping[str, Ending] | None = None) -> None:
        """Jobs whose data is not close by yet: they wait for it; and what ends the nights of those that wait.

        Raises: NotLeadingError.
        """
        with self._lock:
            self._lead_or_raise()
            self._seer.unstaged = unstaged
            self._seer.learn(endings or {})

    def appetite(self, pool: str, resource: str, enough: int) -> int:
        """Devices of a pool that training could use in all, `enough` at most. Raises: NotLeadingError."""
        with self._lock:
            self._lead_or_raise()
            return appetite(self._mirror, pool, resource, enough)

    def slowest_stop(self, pool: str, *, not_of: str | None = None) -> SlowStop | None:
        """Who of those that hold devices of a pool, and are not of that tenant, takes longest to stop; None where
        nobody's stops were seen. Raises: NotLeadingError."""
        with self._lock:
            self._lead_or_raise()
            return slowest_stop(self._mirror, pool, not_of)

    def say(self, job_id: str, kind: str, **data: str | float) -> None:
        """An event of a job that changes nothing else. Raises: UnknownJobError (also if it has ended)."""
        with self._change("say", SYSTEM) as change:
            change.event(kind, live(change, job_id), **data)

    def queues(self) -> tuple[Queue, ...]:
        """The queues of the Cluster that holds."""
        return self._facts.queues

    # --- What starts by a clock --------------------------------------------------------------------------------------

    def schedules(self) -> tuple[ScheduleRow, ...]:
        """All schedules, their instances only as far as they live. Raises: NotLeadingError."""
        with self._lock:
            self._lead_or_raise()
            alive = self._mirror.jobs.rows
            rows = list(self._mirror.schedules.rows.values())
            return tuple(replace(row, instances=tuple(one for one in row.instances if one in alive)) for row in rows)

    def start_due(self, schedule: ScheduleRow, due: Due, jobs: Sequence[submission.NewJob], *, now_s: float) -> None:
        """Do what was decided of a schedule and keep until when that was, in one transaction: a crash does all of it or
        nothing. A schedule that is gone or was looked at by another since is left alone."""
        with self._change("schedule", SYSTEM, now_s) as change:
            before = schedules.unchanged(change, schedule)
            if before is None:
                return
            for job_id in due.replaced:
                cancel(change, live(change, job_id), grace_s=self._facts.rules.drain_grace_s)
            started: tuple[str, ...] = ()
            if jobs:
                one = Submission(jobs=tuple(jobs), actor=f"schedule:{schedule.name}"[:64])
                with self.database.reading() as connection:
                    runs = submission.latest_runs(connection, [one])
                started = submission.enter(change, one, runs).ids
            schedules.looked(change, before, due, started, now_s)

    def prune(self, *, before_s: float) -> bool:
        """Remove events, decisions and idempotency keys that are older, so many at once; whether more are left.

        The newest event stays, so that whoever goes on from a removed one can be told.
        """
        with self._change("prune", SYSTEM) as change:
            with self.database.reading() as connection:
                statements, more = retention.deletions(connection, round(before_s * 1000))
            change.others += statements
            return more

    # --- Who is told when jobs end -----------------------------------------------------------------------------------

    def gather_notices(self) -> bool:
        """Make messages of the ends that were not looked at yet; whether more are left. Raises: NotLeadingError."""
        with self._change("notices", SYSTEM) as change:
            hooks = [hook.to_document() for hook in self._facts.hooks]
            with self.database.reading() as connection:
                after = notices.mark(connection) if self._noticed is None else self._noticed
                reading = notices.gather(connection, after, hooks, change.now_ms)
            if reading.keep:
                notices.enter(change, reading)
        self._noticed = reading.upto
        return reading.more

    def notices_tried(self, outcomes: Sequence[notices.Tried]) -> None:
        """Keep what became of tries to deliver. Raises: NotLeadingError."""
        with self._change("tried", SYSTEM) as change:
            notices.tried(change, outcomes)

    # --- The control cycle (ports.Ledger) ----------------------------------------------------------------------------

    def record(self, reports: tuple[Report, ...], *, now_s: float) -> tuple[Report, ...]:
        """Enter what became of attempts; return the ends, which need not be reported any more."""
        with self._change("record", SYSTEM, now_s) as change:
            for report in sorted(reports, key=lambda one: (one.job, one.attempt)):
                enter_report(change, report, self._seer.held)
            noted = self._notes.enter(change, reports)
        with self._lock:
            self._notes.settle(noted, self._mirror.jobs.rows)
            for report in reports:
                if not report.over and report.job in self._mirror.holding:
                    self._mirror.note_report(report, round(now_s * 1000))
        return tuple(report for report in reports if report.over)

    def heard(self, job_id: str) -> tuple[Report, int] | None:
        """The last report of a job that runs and when (UTC milliseconds) it came; None where this process does not
        lead, or has not heard of it. Waits for nobody: what is in memory is replaced, never changed half-way."""
        mirror = self._mirror
        report, at_ms = mirror.reports.get(job_id), mirror.heard_ms.get(job_id)
        return None if report is None or at_ms is None else (report, at_ms)

    def snapshot(self, pools: tuple[Pool, ...], *, now_s: float) -> Snapshot:
        """Everything that decides, at an instant after every decision that did something. Raises: NotLeadingError.

        Also where the clock stands still or was set back: who started later must be told by when it started.
        """
        with self._lock:
            self._lead_or_raise()
            return self._seer.snapshot(pools, max(self._now_ms(now_s), self._decided_ms + 1))

    def commit(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Write what was decided, and order it. Jobs that have changed since the snapshot are left alone."""
        with self._change("commit", SYSTEM, snapshot.now_s) as change:
            did = self._scribe.enter(change, snapshot, decisions)
        self._scribe.seen = snapshot.pools
        if did:
            self._decided_ms = change.now_ms

    def unsent(self) -> tuple[Order, ...]:
        """Orders that nobody has confirmed yet, oldest first."""
        with self._lock:
            self._lead_or_raise()
            rows = self._mirror.orders.rows.values()
            return tuple(Order(id=row.id, what=from_text(row.body), attempt=row.attempt) for row in rows)

    def sent(self, orders: Sequence[Order]) -> None:
        """The other side has taken these orders."""
        if not orders:
            return
        faults.point("outbox:asked")
        with self._change("sent", SYSTEM) as change:
            for order in orders:
                _confirm(change, order)


def _confirm(change: Change, order: Order) -> None:
    row = change.orders.get(order.id)
    if row is None:
        return
    change.orders.drop(order.id)
    job, attempt = change.jobs.get(row.job), change.attempts.get((row.job, row.attempt))
    if attempt is not None and attempt.sent_ms is None:
        change.attempts.put(replace(attempt, sent_ms=change.now_ms))
    if job is not None and job.state is JobState.ADMITTED and job.attempt == row.attempt:
        job = replace(job, state=JobState.STARTING, changed_ms=change.now_ms, version=job.version + 1)
        change.jobs.put(job)
        change.event("starting", job)
