"""What running trials hold, and what their next rungs are expected to cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.policy.study.values import Rates, Spent, spent
from orchestrator.study.record import StudyRecord, TrialRecord


@dataclass(slots=True)
class OpenAttempt:
    """An attempt that holds workers since `began_s`; `to_step` is the report it runs to, None while it leaves."""

    trial: str
    attempt: int
    workers: int
    began_s: float
    from_step: int
    to_step: int | None
    ran_to: int = 0
    first_step_s: float | None = None
    told_to_stop_s: float | None = None
    why: str = ""

    def device_s(self, now_s: float, devices_per_worker: float) -> float:
        return max(0.0, now_s - self.began_s) * self.workers * devices_per_worker

    def steps_left(self) -> int:
        return 0 if self.to_step is None else max(0, self.to_step - max(self.from_step, self.ran_to))


@dataclass(slots=True)
class Meter:
    """Sums and forecasts for one driver."""

    rates: Rates
    devices_per_worker: float
    opened: dict[str, OpenAttempt] = field(default_factory=dict)

    def now(self, record: StudyRecord, now_s: float) -> Spent:
        """All that was spent: ended attempts as they were written down, running ones by the clock."""
        device_s = 0.0
        for trial in record.trials.values():
            running = self.opened.get(trial.trial)
            for attempt, seconds in trial.device_s_by_attempt.items():
                is_open = running is not None and running.attempt == attempt
                device_s += running.device_s(now_s, self.devices_per_worker) if running and is_open else seconds
        return spent(device_s, self.rates)

    def per_step(self, record: StudyRecord, trial: TrialRecord | None = None) -> float:
        """Device-seconds of a step, start-up included: of this trial, else of all; 0 while nobody knows."""
        if trial is not None and trial.measures and (own := _ratio([trial])):
            return own
        return _ratio(record.trials.values())

    def expected(self, record: StudyRecord) -> Spent:
        """What the rungs that run now are still expected to cost."""
        device_s = sum(
            attempt.steps_left() * self.per_step(record, record.trials[attempt.trial])
            for attempt in self.opened.values()
        )
        return spent(device_s, self.rates)

    def rung(self, record: StudyRecord, trial: TrialRecord | None, steps: int) -> Spent:
        """What `steps` more steps of a trial are expected to cost."""
        return spent(steps * self.per_step(record, trial), self.rates)


def _ratio(trials: Iterable[TrialRecord]) -> float:
    measured = [(trial.measures[-1].device_s, trial.steps_run) for trial in trials if trial.measures]
    steps = sum(run for _, run in measured)
    return sum(seconds for seconds, _ in measured) / steps if steps else 0.0
