"""What the driver's parts share: the record and the one way to write to it, the meter, and why the session ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.policy.study.budget import Limits, may_run
from orchestrator.policy.study.rungs import report_steps
from orchestrator.policy.study.space import apply
from orchestrator.policy.study.values import Rates, Spent, TrialState
from orchestrator.spec import Study
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.events import Close, Earlier, Ending, Event, TrialOver
from orchestrator.study.journal import Journal
from orchestrator.study.meter import Meter, OpenAttempt
from orchestrator.study.ports import Strategy, Trials
from orchestrator.study.record import StudyRecord, TrialRecord
from orchestrator.study.standing import devices_per_worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this process drives a study. `stall_s` is what starting an attempt costs; `wants_stop` is asked all the
    time: 1 = stop in order, 2 = at once."""

    rates: Rates = field(default_factory=Rates)
    dataset_hash: str = ""
    earlier: tuple[Earlier, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    stall_s: float = 3.0
    wants_stop: Callable[[], int] = lambda: 0
    on_event: Callable[[Event, StudyRecord], None] = lambda event, record: None


class Desk:
    """One session's state. `closing` is why it ends, once that is known; `error` is raised when everything has left."""

    def __init__(self, study: Study, journal: Journal, strategy: Strategy, trials: Trials, settings: Settings) -> None:
        self.study, self.spec = study, study.spec
        self.journal, self.strategy, self.trials, self.settings = journal, strategy, trials, settings
        self.limits = Limits.of(study.spec.budget)
        self.reports = report_steps(study.spec)
        self.meter = Meter(settings.rates, devices_per_worker(study.spec.template))
        self.record = StudyRecord()
        self.closing: tuple[Close, str] | None = None
        self.error: UserError | None = None

    def affords(self, trial: TrialRecord | None, steps: int) -> bool:
        expected = self.meter.expected(self.record) if self.meter.opened else Spent()
        rung = self.meter.rung(self.record, trial, steps)
        return may_run(self.limits, self.spent(), expected, rung)

    def job(self, trial: TrialRecord) -> TrainJobSpec:
        job = apply(self.spec.template, trial.config)
        return job.model_copy(update={"data": job.data.model_copy(update={"seed": trial.seed})})

    def stop(self, attempt: OpenAttempt, why: Ending, *, at_once: bool = False) -> None:
        attempt.told_to_stop_s = self.now()
        attempt.why = attempt.why or why
        self.trials.stop(attempt.trial, at_once=at_once)

    def end_trial(self, trial: TrialRecord, state: TrialState, detail: str) -> None:
        self.write(TrialOver(at_s=self.now(), trial=trial.trial, state=state, detail=detail))
        self.tell_strategy(trial, state, trial.step, None)

    def tell_strategy(self, trial: TrialRecord, state: TrialState, step: int, value: float | None) -> None:
        if not trial.repeat_of:
            self.strategy.ended(trial.trial, state, step, value)

    def fail(self, problem: str, *, where: str = "", next_step: str = "") -> None:
        """The study itself is wrong: end it, and say so when everything has left."""
        if self.error is None:
            code = ExitCode.INVALID if where else ExitCode.JOB_FAILED
            self.error = UserError(problem, code=code, where=where, next_step=next_step)
            self.closing = (Close.FAILED, problem)

    def spent(self) -> Spent:
        return self.meter.now(self.record, self.now())

    def now(self) -> float:
        return self.trials.now_s()

    def write(self, *events: Event) -> None:
        if not events:
            return
        self.journal.append(events)
        for event in events:
            self.record.apply(event)
            self.settings.on_event(event, self.record)
