"""What a keeper knows of the runs it serves: plan, verdicts, skipped snapshots, and how far behind safety is.

The meeting point of the keeper's services; thread-safe, waits for nothing but its own lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jobs.train.keeper.flush_policy import FlushRules
from jobs.train.keeper.judge import Pressure, droppable
from jobs.train.keeper.lead import Lead
from jobs.train.keeper.recall import Recall
from jobs.train.keeper.store import PartStore
from jobs.train.keeper.values import AttemptPlan, HeldPart, Inventory, PartKey, SnapshotKey, Verdicts


class UnknownRunError(ValueError):
    """No attempt of this run has begun here, or another one is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far behind the newest safe snapshot was when it became safe, in steps that training had made meanwhile.

    None until one became safe, or where nobody says how far training is (`Runs.note_step`).
    """

    last_steps: int | None = None
    most_steps: int | None = None
    last_s: float | None = None


@dataclass
class Run:
    """One run's state here. `lead` is None on all nodes but one. `reported` is what the lead heard last."""

    plan: AttemptPlan
    verdicts: Verdicts
    lead: Lead | None
    skipped: set[SnapshotKey] = field(default_factory=set)
    flushed: set[PartKey] = field(default_factory=set)
    flush_failed: tuple[SnapshotKey, str] | None = None
    reported: Inventory | None = None
    step: int = -1
    complete_at_s: dict[SnapshotKey, float] = field(default_factory=dict)
    lag: Lag = field(default_factory=Lag)


class Runs:
    """All runs of one keeper. `changed` is notified whenever a verdict or a plan changes."""

    def __init__(
        self,
        node: str,
        store: PartStore,
        recall: Recall,
        *,
        rules: Callable[[AttemptPlan], FlushRules],
        mirror_error: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self.node = node
        self._store = store
        self._recall = recall
        self._rules = rules
        self._mirror_error = mirror_error
        self._clock = clock
        self.changed = threading.Condition(threading.RLock())
        self._runs: dict[str, Run] = {}

    def now_s(self) -> float:
        """This keeper's clock."""
        return self._clock()

    def begin(self, plan: AttemptPlan) -> None:
        """An attempt begins, or goes on under a changed plan (other mirrors, leaving nodes). May be repeated.

        What earlier attempts left is dropped, but for `plan.kept`. Raises: ValueError for an attempt that is over.
        """
        with self.changed:
            run = self._runs.get(plan.run)
            if run and plan.attempt < run.plan.attempt:
                raise ValueError(f"attempt {plan.attempt} of {plan.run} is over: {run.plan.attempt} has begun")
            if run and plan.attempt == run.plan.attempt and (run.lead is not None) == (plan.lead == self.node):
                run.plan = replace(plan, kept=tuple(sorted({*plan.kept, *run.plan.kept})))
                run.reported = None
                if run.lead:
                    run.lead.change_plan(plan)
            else:
                self._runs[plan.run] = self._fresh(plan, run)
                kept = set(plan.kept)
                held = self._store.snapshots(plan.run)
                self._store.drop_snapshots({k for k in held if k.attempt < plan.attempt and k not in kept})
                if run and run.plan.world_size != plan.world_size:
                    self._store.trim()
            self.changed.notify_all()

    def _fresh(self, plan: AttemptPlan, before: Run | None) -> Run:
        verdicts = self._recall.load(plan.run, plan.attempt) or Verdicts(
            run=plan.run, attempt=plan.attempt, complete=plan.kept
        )
        lead = Lead(plan, verdicts, self._rules(plan), self._clock()) if plan.lead == self.node else None
        return Run(plan=plan, verdicts=verdicts, lead=lead, step=before.step if before else -1)

    def end(self, run: str) -> None:
        """The run is over: forget it and drop all it has here."""
        with self.changed:
            self._runs.pop(run, None)
            self._recall.forget(run)
            self._store.drop_snapshots(set(self._store.snapshots(run)))
            self._store.trim()
            self.changed.notify_all()

    def plans(self) -> list[AttemptPlan]:
        """Attempts under way."""
        with self.changed:
            return [run.plan for _, run in sorted(self._runs.items())]

    def find(self, run: str, attempt: int) -> Run:
        """The run's state; hold `changed` while using it. Raises: UnknownRunError."""
        found = self._runs.get(run)
        if found is None:
            raise UnknownRunError(f"no attempt of {run} has begun on node {self.node}")
        if found.plan.attempt != attempt:
            raise UnknownRunError(f"attempt {attempt} of {run}; on node {self.node} it is {found.plan.attempt}")
        return found

    def get(self, run: str) -> Run | None:
        """The run's state, if it is known; hold `changed` while using it."""
        return self._runs.get(run)

    def inventory(self, name: str) -> Inventory:
        """What this node holds of a run, known or not: a new keeper knows its parts before it hears of the attempt."""
        with self.changed:
            run = self._runs.get(name)
            flushed = run.flushed if run else set()
            held = tuple(
                HeldPart(key=part.meta.key, origin=part.meta.origin, flushed=part.meta.key in flushed)
                for part in self._store.sealed(name)
            )
            if run is None:
                return Inventory(node=self.node, run=name, attempt=-1, held=held)
            failed, error = run.flush_failed or (None, "")
            return Inventory(
                node=self.node,
                run=name,
                attempt=run.plan.attempt,
                held=held,
                skipped=tuple(sorted(run.skipped)),
                mirror_error=self._mirror_error(),
                flush_failed=failed,
                flush_error=error,
            )

    def droppable(self, key: SnapshotKey, pressure: Pressure = Pressure.NONE) -> set[SnapshotKey]:
        """Which snapshots of the run may go to make room for `key`."""
        with self.changed:
            run = self._runs.get(key.run)
            if run is None:
                return set()
            failing = Pressure.MIRROR_FAILING if run.verdicts.mirror_failing else Pressure.NONE
            held = set(self._store.snapshots(key.run)) - {key}
            wanted = max(pressure, failing)
            return set(droppable(held, run.verdicts, wanted, room_for=key, refused=run.skipped))

    def is_outdated(self, key: SnapshotKey) -> bool:
        """Whether a part of this snapshot would be dropped again as soon as it has come."""
        with self.changed:
            run = self._runs.get(key.run)
            if run is None:
                return False
            if key.attempt < run.plan.attempt and key not in run.plan.kept:
                return True
            return key in droppable({key}, run.verdicts)

    def skip(self, key: SnapshotKey) -> None:
        """A rank of this node could not take its part: the snapshot will never be complete."""
        with self.changed:
            run = self._runs.get(key.run)
            if run and run.plan.attempt == key.attempt:
                run.skipped.add(key)
                self._store.drop_snapshots({key})

    def apply(self, verdicts: Verdicts) -> None:
        """Act on what the lead has judged: drop what nobody needs. Verdicts on another attempt, and older ones that
        come late, are passed over."""
        with self.changed:
            run = self._runs.get(verdicts.run)
            if run is None or run.plan.attempt != verdicts.attempt or _is_older(verdicts, run.verdicts):
                return
            self._measure(run, verdicts)
            run.verdicts = verdicts
            self._recall.save(verdicts)
            if run.flush_failed and run.flush_failed[0] != verdicts.flush:
                run.flush_failed = None
            newest = verdicts.complete[-1] if verdicts.complete else None
            run.skipped = {key for key in run.skipped if newest is None or key > newest}
            held = self._store.snapshots(verdicts.run)
            self._store.drop_snapshots(set(droppable(held, verdicts)))
            run.flushed = {key for key in run.flushed if self._store.get(key)}
            self.changed.notify_all()

    def note_step(self, run: str, step: int) -> None:
        """How many steps training has completed; said by whoever hears the ranks, needed for `Lag` alone."""
        with self.changed:
            found = self._runs.get(run)
            if found:
                found.step = max(found.step, step)

    def flushed(self, key: PartKey) -> None:
        """A part is in storage."""
        with self.changed:
            found = self._runs.get(key.snapshot.run)
            if found:
                found.flushed.add(key)

    def flush_failed(self, key: SnapshotKey, error: str) -> None:
        """A part of this snapshot could not be written to storage."""
        with self.changed:
            found = self._runs.get(key.run)
            if found:
                found.flush_failed = (key, error)

    def _measure(self, run: Run, verdicts: Verdicts) -> None:
        now_s = self._clock()
        safe = verdicts.safe
        # The newest safe one may be older than the newest complete ones that are listed.
        known = {*verdicts.complete, *([safe] if safe else [])}
        run.complete_at_s = {key: run.complete_at_s.get(key, now_s) for key in known}
        if safe is None or (run.verdicts.safe is not None and safe <= run.verdicts.safe):
            return
        behind = run.step - safe.step if run.step >= safe.step else None
        most = max((s for s in (behind, run.lag.most_steps) if s is not None), default=None)
        run.lag = replace(run.lag, last_steps=behind, most_steps=most, last_s=now_s - run.complete_at_s[safe])


def _is_older(new: Verdicts, old: Verdicts) -> bool:
    """Whether `new` was judged before `old`. Only what grows is compared; a late copy that differs in nothing of it
    does no harm."""
    return new.complete[-1:] < old.complete[-1:]
