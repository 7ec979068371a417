"""What has become of a study so far: the fold of its journal. Same events, same record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.policy.study.values import TrialState
from orchestrator.study.events import (
    AttemptOver,
    Began,
    Close,
    Closed,
    Copying,
    Drawn,
    Earlier,
    Ending,
    Event,
    Metered,
    Opened,
    Reported,
    Ruling,
    Stepped,
    TrialOver,
)

_STATES = {
    Ruling.GO_ON: TrialState.RUNNING,
    Ruling.PAUSE: TrialState.PAUSED,
    Ruling.STOP: TrialState.STOPPED,
    Ruling.FINISH: TrialState.FINISHED,
    Ruling.FAIL: TrialState.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One report of a trial; `device_s` is what the whole trial had used by then."""

    step: int
    at_s: float
    metrics: dict[str, float]
    device_s: float


@dataclass(slots=True)
class TrialRecord:
    """One trial. `step` is how far its kept state has come, `reported` the last step that was measured (a node may die
    between the two); `run` names its states in storage. `is_held`: the scheduler, not a lack of room, paused it."""

    trial: str
    config: dict[str, Any]
    seed: int
    repeat_of: str
    drawn_at_s: float
    state: TrialState = TrialState.WAITING
    step: int = 0
    reported: int = 0
    detail: str = ""
    measures: list[Measure] = field(default_factory=list)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    changes: list[Copying] = field(default_factory=list)
    attempts: int = 0
    workers: int = 0
    is_held: bool = False
    failures: int = 0
    losses: int = 0
    lost_steps: int = 0
    steps_run: int = 0
    device_s_by_attempt: dict[int, float] = field(default_factory=dict)

    @property
    def device_s(self) -> float:
        return sum(self.device_s_by_attempt.values())

    @property
    def run(self) -> str:
        generation = self.changes[-1].generation if self.changes else 0
        return f"{self.trial}.g{generation}" if generation else self.trial

    @property
    def last(self) -> Measure | None:
        return self.measures[-1] if self.measures else None

    @property
    def measured_at(self) -> int:
        """The step of the last result; the state that is kept may be younger."""
        return self.last.step if self.last else 0

    def value(self, metric: str) -> float | None:
        """The metric as last measured."""
        return self.last.metrics.get(metric) if self.last else None


class StudyRecord:
    """The whole study; feed it with `apply`."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.study: dict[str, Any] = {}
        self.dataset_hash = ""
        self.versions: dict[str, str] = {}
        self.earlier: tuple[Earlier, ...] = ()
        self.first_at_s: float | None = None
        self.last_at_s = 0.0
        self.trials: dict[str, TrialRecord] = {}
        self.closed: Closed | None = None
        self.sessions = 0
        for event in events:
            self.apply(event)

    @property
    def device_s(self) -> float:
        return sum(trial.device_s for trial in self.trials.values())

    @property
    def searched(self) -> list[TrialRecord]:
        """Trials that the searcher drew, in order; repeats with other seeds are not among them."""
        return [trial for trial in self.trials.values() if not trial.repeat_of]

    def open_attempts(self) -> Iterator[TrialRecord]:
        """Trials that hold workers."""
        return (trial for trial in self.trials.values() if trial.workers)

    def apply(self, event: Event) -> None:
        """Take in one event."""
        if self.first_at_s is None:
            self.first_at_s = event.at_s
        self.last_at_s = max(self.last_at_s, event.at_s)
        match event:
            case Opened():
                self.study, self.dataset_hash = event.study, event.dataset_hash
                self.versions, self.earlier, self.closed = event.versions, event.earlier, None
                self.sessions += 1
            case Closed():
                self.closed = event
            case Drawn():
                self.trials[event.trial] = TrialRecord(
                    event.trial, event.config, event.seed, event.repeat_of, event.at_s
                )
            case Began() | Stepped() | Metered() | Reported() | AttemptOver() | TrialOver():
                self._apply(event, self.trials[event.trial])

    def _apply(self, event: Began | Stepped | Metered | Reported | AttemptOver | TrialOver, trial: TrialRecord) -> None:
        match event:
            case Began():
                trial.state, trial.attempts, trial.workers = TrialState.RUNNING, event.attempt, event.workers
                trial.device_s_by_attempt[event.attempt] = 0.0
                trial.is_held = False
            case Stepped():
                trial.curve.extend(event.points)
                trial.steps_run += len(event.points)
            case Metered():
                trial.device_s_by_attempt[event.attempt] = event.device_s
            case Reported():
                self._reported(event, trial)
            case AttemptOver():
                self._attempt_over(event, trial)
            case TrialOver():
                trial.state, trial.detail = event.state, event.detail

    def _reported(self, event: Reported, trial: TrialRecord) -> None:
        trial.device_s_by_attempt[event.attempt] = event.device_s
        trial.step = trial.reported = event.step
        trial.detail, trial.state = event.detail, _STATES[event.ruling]
        trial.is_held = event.ruling is Ruling.PAUSE
        trial.measures.append(Measure(step=event.step, at_s=event.at_s, metrics=event.metrics, device_s=trial.device_s))
        for other in event.stops:
            self.trials[other].state = TrialState.STOPPED
            self.trials[other].detail = f"stopped when {event.trial} reported"
        for copy in event.copies:
            target = self.trials[copy.trial]
            target.config, target.step, target.reported = copy.config, copy.source_step, copy.source_step
            target.changes.append(copy)

    def _attempt_over(self, event: AttemptOver, trial: TrialRecord) -> None:
        trial.device_s_by_attempt[event.attempt] = event.device_s
        trial.workers = 0
        trial.lost_steps += event.lost_steps
        if event.why is not Ending.LEFT:  # a report said how far it has come, and where it goes on from
            trial.step = event.step
        trial.losses += event.why in (Ending.LOST, Ending.ABANDONED)
        trial.failures += event.why is Ending.FAILED
        if not trial.state.is_over:
            trial.state = TrialState.PAUSED if trial.step else TrialState.WAITING

    @property
    def close_reason(self) -> Close | None:
        return self.closed.why if self.closed else None
