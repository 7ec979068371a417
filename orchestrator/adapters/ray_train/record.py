"""A run's record: a pure fold over its events, with worker-time booked exactly once.

Every second of every held worker is useful (a step that survived), lost (a step that had to be done again) or stalled
(held, no step). Sum of the three = sum over attempts of world_size x (closed - opened), by construction; time without
workers is waiting and costs nothing. Refuses to know clocks, files and Ray.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, assert_never

from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    CheckpointSaved,
    Event,
    Noticed,
    Outcome,
    Part,
    Remark,
    SnapshotSafe,
    Snapshotted,
    StacksTaken,
    StallPart,
    Status,
    StatusChanged,
    StepDone,
    StopAsked,
    Straggler,
    WorkerDied,
)
from orchestrator.adapters.ray_train.step_book import StepBook, StepCost

# Causes under which we chose the moment: they must lose nothing.
PLANNED = frozenset({Cause.GROW, Cause.SHRINK, Cause.NOTICE, Cause.PAUSE, Cause.INTERRUPT})


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One start of the worker group. Times are Unix seconds; steps count completed optimizer steps of the run."""

    attempt: int
    cause: Cause
    world_size: int
    start_step: int
    source: str
    opened_at_s: float
    first_step_began_at_s: float | None = None
    last_step_at_s: float | None = None
    closed_at_s: float | None = None
    outcome: Outcome | None = None
    close_cause: Cause | None = None
    detail: str = ""
    parts: dict[Part, float] = field(default_factory=dict)


class RunRecord:
    """The state of the fold. `apply` events in order; `to_json` is what `record.json` holds."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.status = Status.WAITING
        self.detail = ""
        self.attempts: list[Attempt] = []
        self.steps = StepBook()
        self.lost_worker_s: dict[Cause, float] = defaultdict(float)
        self.lost_steps: dict[Cause, int] = defaultdict(int)
        self.notices = 0
        self.snapshot_step: int | None = None
        self.safe_step: int | None = None
        self.mirror_lag_steps: int | None = None
        self.checkpoint: CheckpointSaved | None = None
        self.first_at_s: float | None = None
        self.last_at_s: float = 0.0

    @classmethod
    def of(cls, run_id: str, events: Iterable[Event]) -> RunRecord:
        """The record that `events` add up to."""
        record = cls(run_id)
        for event in events:
            record.apply(event)
        return record

    @property
    def steps_done(self) -> int:
        """Completed steps that survive so far."""
        last = self.steps.last
        if last is not None:
            return last
        return self.attempts[0].start_step if self.attempts else 0

    @property
    def current(self) -> Attempt | None:
        """The attempt that holds workers now, if any."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].closed_at_s is None else None

    def apply(self, event: Event) -> None:
        """Add one event. Events of attempts that were closed are ignored: a rank's last words may come late."""
        self.first_at_s = event.at_s if self.first_at_s is None else self.first_at_s
        self.last_at_s = max(self.last_at_s, event.at_s)
        match event:
            case AttemptOpened():
                self._open(event)
            case StepDone():
                self._step(event)
            case StallPart():
                attempt = self._attempt(event.attempt)
                if attempt is not None:
                    attempt.parts[event.part] = max(attempt.parts.get(event.part, 0.0), event.seconds)
            case AttemptClosed():
                self._close(event)
            case Snapshotted():
                self.snapshot_step = event.step
            case SnapshotSafe():
                self.safe_step, self.mirror_lag_steps = event.step, event.lag_steps
            case CheckpointSaved():
                self.checkpoint = event
            case Noticed():
                self.notices += 1
            case StatusChanged():
                self.status, self.detail = event.status, event.detail
            case StopAsked() | Remark() | StacksTaken() | Straggler() | WorkerDied():
                pass
            case _:
                assert_never(event)

    def _attempt(self, number: int) -> Attempt | None:
        return next((a for a in reversed(self.attempts) if a.attempt == number), None)

    def _open(self, event: AttemptOpened) -> None:
        self._lose_after(event.start_step, event.cause)
        self.attempts.append(
            Attempt(
                attempt=event.attempt,
                cause=event.cause,
                world_size=event.world_size,
                start_step=event.start_step,
                source=event.source,
                opened_at_s=event.at_s,
            )
        )

    def _lose_after(self, step: int, cause: Cause) -> None:
        """Steps after `step` will be made again: what they cost is lost, charged to the cause."""
        dropped, worker_s = self.steps.drop_after(step)
        if dropped:
            self.lost_worker_s[cause] += worker_s
            self.lost_steps[cause] += dropped

    def _step(self, event: StepDone) -> None:
        attempt = self.current
        if attempt is None or attempt.attempt != event.attempt:
            return
        # An attempt that found its checkpoint damaged starts further back than it was opened for.
        self._lose_after(event.step - 1, attempt.cause)
        if attempt.first_step_began_at_s is None:
            attempt.first_step_began_at_s = max(event.at_s - event.step_s, attempt.opened_at_s)
        began_at_s = attempt.last_step_at_s or attempt.first_step_began_at_s
        attempt.last_step_at_s = max(event.at_s, began_at_s)
        cost = StepCost(
            attempt=event.attempt,
            worker_s=(attempt.last_step_at_s - began_at_s) * attempt.world_size,
            loss=event.loss,
            num_tokens=event.num_tokens,
        )
        self.steps.add(event.step, cost)

    def _close(self, event: AttemptClosed) -> None:
        attempt = self._attempt(event.attempt)
        if attempt is None or attempt.closed_at_s is not None:
            return
        attempt.closed_at_s = max(event.at_s, attempt.last_step_at_s or attempt.opened_at_s)
        attempt.outcome, attempt.close_cause, attempt.detail = event.outcome, event.cause, event.detail

    def _loss(self) -> float | None:
        last = self.steps.get(self.steps_done)
        return last.loss if last else None

    def worker_seconds(self) -> dict[str, Any]:
        """Held worker-time in worker-seconds: `useful`, `lost` and `stalled` by cause, and their sum `held`.

        A stall at the head of an attempt is charged to the attempt's cause, one at its tail to the cause of its end.
        """
        stalled: dict[Cause, float] = defaultdict(float)
        held = 0.0
        for attempt in self.attempts:
            end_s = attempt.closed_at_s if attempt.closed_at_s is not None else self.last_at_s
            held += attempt.world_size * (end_s - attempt.opened_at_s)
            stepped_from = attempt.first_step_began_at_s if attempt.first_step_began_at_s is not None else end_s
            stalled[attempt.cause] += attempt.world_size * (stepped_from - attempt.opened_at_s)
            tail_s = end_s - (attempt.last_step_at_s if attempt.last_step_at_s is not None else end_s)
            stalled[attempt.close_cause or attempt.cause] += attempt.world_size * tail_s
        return {
            "held": held,
            "useful": self.steps.worker_s,
            "lost": _by_name(self.lost_worker_s),
            "stalled": _by_name(stalled),
        }

    def waiting_s(self) -> float:
        """Seconds since the run began in which it held no worker."""
        if self.first_at_s is None:
            return 0.0
        holding = sum((a.closed_at_s or self.last_at_s) - a.opened_at_s for a in self.attempts)
        return max(0.0, self.last_at_s - self.first_at_s - holding)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, of a size that does not grow with the steps: those are in the log of events.

        `loss` is the last surviving step's; `training_goodput` is a fraction of held worker-time, null before any.
        """
        seconds = self.worker_seconds()
        return {
            "apiVersion": "tideline/v1",
            "kind": "RunRecord",
            "run_id": self.run_id,
            "status": self.status,
            "detail": self.detail,
            "started_at_s": self.first_at_s,
            "updated_at_s": self.last_at_s,
            "steps": self.steps_done,
            "loss": self._loss(),
            "tokens": self.steps.num_tokens,
            "training_goodput": seconds["useful"] / seconds["held"] if seconds["held"] else None,
            "worker_seconds": seconds,
            "waiting_s": self.waiting_s(),
            "steps_lost": _by_name(self.lost_steps),
            "planned_steps_lost": sum(n for cause, n in self.lost_steps.items() if cause in PLANNED),
            "notices": self.notices,
            "snapshot_step": self.snapshot_step,
            "safe_step": self.safe_step,
            "mirror_lag_steps": self.mirror_lag_steps,
            "checkpoint": {"step": self.checkpoint.step, "path": self.checkpoint.path} if self.checkpoint else None,
            "attempts": [_attempt_json(attempt) for attempt in self.attempts],
        }


def _by_name(values: dict[Cause, Any]) -> dict[str, Any]:
    return {cause.value: values[cause] for cause in sorted(values) if values[cause]}


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "cause": attempt.cause,
        "world_size": attempt.world_size,
        "start_step": attempt.start_step,
        "source": attempt.source,
        "opened_at_s": attempt.opened_at_s,
        "first_step_began_at_s": attempt.first_step_began_at_s,
        "last_step_at_s": attempt.last_step_at_s,
        "closed_at_s": attempt.closed_at_s,
        "outcome": attempt.outcome,
        "close_cause": attempt.close_cause,
        "detail": attempt.detail,
        "parts": {part.value: attempt.parts[part] for part in Part if part in attempt.parts},
    }
