"""What trials say, and what follows from it: a verdict is decided, written down, and only then told."""

from __future__ import annotations

import math

from orchestrator.policy.study.rungs import next_report
from orchestrator.policy.study.values import TrialState
from orchestrator.study.desk import Desk
from orchestrator.study.events import AttemptOver, Copying, Ending, Reported, Ruling, Stepped
from orchestrator.study.meter import OpenAttempt
from orchestrator.study.ports import Choice, Leaving, Left, News, Progress, Report, Verdict
from orchestrator.study.record import TrialRecord

# Of these failures another try may help; the others would come again.
_MAY_HELP = frozenset({"lost_peer", "killed", "start", "environment", "hang"})


class Hearing:
    """Takes in news, one at a time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def hear(self, news: News) -> None:
        attempt = self._desk.meter.opened.get(news.trial)
        if attempt is None or attempt.attempt != news.attempt:
            return  # the last words of an attempt that is over
        match news:
            case Progress():
                attempt.ran_to = max([attempt.ran_to, *(step for step, _, _ in news.points)])
                self._desk.write(Stepped(at_s=self._desk.now(), trial=news.trial, points=news.points))
            case Report():
                self._reported(news, attempt)
            case Left():
                self._left(news, attempt)

    def _reported(self, news: Report, attempt: OpenAttempt) -> None:
        trial = self._desk.record.trials[news.trial]
        value = news.metrics.get(self._desk.spec.metric)
        if value is None:
            self._unknown_metric(news)
        ruling, detail, verdict = self._rule(trial, news.step, value)
        copies = self._copies(verdict, news)
        now_s = self._desk.now()
        reported = Reported(
            at_s=now_s,
            trial=news.trial,
            attempt=news.attempt,
            step=news.step,
            metrics=news.metrics,
            device_s=attempt.device_s(now_s, self._desk.meter.devices_per_worker),
            ruling=ruling,
            detail=detail,
            stops=verdict.stops if verdict else (),
            copies=copies,
        )
        # On disk first: what a trial is told must be known to whoever drives the study after a crash.
        self._desk.write(reported)
        following = next_report(self._desk.reports, news.step)
        is_copied = any(copy.trial == news.trial for copy in copies)
        if (
            ruling is Ruling.GO_ON
            and following is not None
            and not is_copied
            and self._goes_on(trial, attempt, following)
        ):
            attempt.from_step, attempt.to_step = news.step, following
            self._desk.trials.go_on(news.trial)
        else:
            attempt.to_step, attempt.why = None, attempt.why or Ending.LEFT
            attempt.told_to_stop_s = now_s
            self._desk.trials.leave(news.trial)

    def _goes_on(self, trial: TrialRecord, attempt: OpenAttempt, following: int) -> bool:
        if self._desk.closing is not None or attempt.told_to_stop_s is not None:
            return False
        attempt.to_step = None  # its own rung is over: only the others' are still expected
        return self._desk.affords(trial, following - trial.step)

    def _rule(self, trial: TrialRecord, step: int, value: float | None) -> tuple[Ruling, str, Verdict | None]:
        if value is None or not math.isfinite(value):
            self._desk.tell_strategy(trial, TrialState.FAILED, step, None)
            return Ruling.FAIL, f"{self._desk.spec.metric} is {value} after step {step}", None
        if step >= self._desk.reports[-1]:
            self._desk.tell_strategy(trial, TrialState.FINISHED, step, value)
            return Ruling.FINISH, "", None
        if trial.repeat_of:
            return Ruling.GO_ON, "", None
        verdict = self._desk.strategy.reported(trial.trial, step, value)
        match verdict.choice:
            case Choice.GO_ON:
                return Ruling.GO_ON, "", verdict
            case Choice.PAUSE:
                return Ruling.PAUSE, "", verdict
            case Choice.STOP:
                return Ruling.STOP, f"worse than others after step {step}", verdict

    def _copies(self, verdict: Verdict | None, news: Report) -> tuple[Copying, ...]:
        """Put the states in place before they are written down: doing it twice is harmless, missing them is not."""
        done = []
        for copy in verdict.copies if verdict else ():
            source, target = self._desk.record.trials[copy.source], self._desk.record.trials[copy.trial]
            step = news.step if copy.source == news.trial else source.step
            generation = (target.changes[-1].generation if target.changes else 0) + 1
            self._desk.trials.copy_state(source.run, step, f"{target.trial}.g{generation}")
            done.append(
                Copying(
                    trial=copy.trial,
                    source=copy.source,
                    source_step=step,
                    config=dict(copy.config),
                    generation=generation,
                )
            )
        return tuple(done)

    def _unknown_metric(self, news: Report) -> None:
        known = ", ".join(sorted(news.metrics)) or "nothing"
        self._desk.fail(
            f"the task reports no {self._desk.spec.metric}; it reports {known}",
            where="spec.metric",
            next_step="Name one of those",
        )

    def _left(self, news: Left, attempt: OpenAttempt) -> None:
        trial = self._desk.record.trials[news.trial]
        now_s = self._desk.now()
        del self._desk.meter.opened[news.trial]
        why = _ending(news, attempt)
        over = AttemptOver(
            at_s=now_s,
            trial=news.trial,
            attempt=news.attempt,
            device_s=attempt.device_s(now_s, self._desk.meter.devices_per_worker),
            why=why,
            step=trial.step if why is Ending.LEFT else news.step,
            lost_steps=max(0, news.ran_to - news.step) if why in (Ending.LOST, Ending.FAILED) else 0,
            detail=news.detail,
        )
        self._desk.write(over)
        if why is Ending.FAILED and not trial.state.is_over:
            retries = self._desk.spec.template.retries.failures
            if news.kind not in _MAY_HELP or trial.failures > retries:
                self._desk.end_trial(trial, TrialState.FAILED, f"{news.kind}: {news.detail}")


def _ending(news: Left, attempt: OpenAttempt) -> Ending:
    match news.how:
        case Leaving.ORDERLY:
            return Ending(attempt.why or (Ending.LEFT if attempt.to_step is None else Ending.PREEMPTED))
        case Leaving.LOST:
            # Who was told to leave after a report has nothing left to lose.
            return Ending.LEFT if attempt.to_step is None else Ending.LOST
        case Leaving.FAILED:
            return Ending.FAILED
