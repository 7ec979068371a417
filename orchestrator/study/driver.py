"""The driver's loop of one study: hear, meter, decide, write down, and only then tell.

Everything that follows from an event is decided from the record, so a driver that is killed at any point goes on from
its journal: searcher and scheduler are fed the same calls again, ended trials are never run again, and what was running
goes on from its newest saved step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.study.allot import Seeker, Shape, allot
from orchestrator.policy.study.budget import Limits, may_run, reached
from orchestrator.policy.study.rungs import next_report, report_steps
from orchestrator.policy.study.space import apply, conflicts
from orchestrator.policy.study.values import Rates, Spent, TrialState
from orchestrator.spec import Study
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.events import (
    AttemptOver,
    Began,
    Close,
    Closed,
    Copying,
    Drawn,
    Ending,
    Event,
    Metered,
    Opened,
    Reported,
    Ruling,
    Stepped,
    TrialOver,
)
from orchestrator.study.journal import Journal
from orchestrator.study.meter import Meter, OpenAttempt
from orchestrator.study.ports import Choice, Leaving, Left, News, Progress, Report, Start, Strategy, Trials, Verdict
from orchestrator.study.record import StudyRecord, TrialRecord
from orchestrator.study.replay import replay
from orchestrator.study.search import hopeless, repeats, why_no_more
from orchestrator.study.standing import devices_per_worker

POLL_S = 0.25
METER_EVERY_S = 5.0
# An orderly stop needs two steps and a save; an attempt that is longer at it is killed.
STOP_PATIENCE_S = 60.0
# Of these failures another try may help; the others would come again.
_MAY_HELP = frozenset({"lost_peer", "killed", "start", "environment", "hang"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this process drives a study. `stall_s` is what starting an attempt costs; `wants_stop` is asked all the
    time: 1 = stop in order, 2 = at once."""

    rates: Rates = field(default_factory=Rates)
    dataset_hash: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    stall_s: float = 3.0
    wants_stop: Callable[[], int] = lambda: 0
    on_event: Callable[[Event, StudyRecord], None] = lambda event, record: None


class Driver:
    """One session of a study. `run` returns the record when the study is over or was stopped."""

    def __init__(self, study: Study, journal: Journal, strategy: Strategy, trials: Trials, settings: Settings) -> None:
        spec = study.spec
        self._study, self._spec = study, spec
        self._journal, self._strategy, self._trials, self._settings = journal, strategy, trials, settings
        self._limits = Limits.of(spec.budget)
        self._reports = report_steps(spec)
        workers = spec.template.workers
        self._meter = Meter(settings.rates, devices_per_worker(spec.template))
        self._shape = Shape(
            min_workers=workers.min,
            max_workers=workers.max,
            min_trials=spec.concurrency.min,
            max_trials=spec.concurrency.max,
            stall_s=settings.stall_s,
        )
        self.record = StudyRecord()
        self._closing: tuple[Close, str] | None = None
        self._no_more: tuple[Close, str] | None = None
        self._error: UserError | None = None
        self._metered_s = 0.0

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> StudyRecord:
        """Raises: UserError for what makes the whole study wrong, such as a metric that its task does not report."""
        self._open()
        while not self._is_over():
            for news in self._trials.poll(POLL_S):
                self._hear(news)
            self._look()
            if self._closing is None:
                self._seat()
            else:
                self._end_running()
        assert self._closing is not None
        why, detail = self._closing
        self._write(Closed(at_s=self._now(), why=why, detail=detail))
        if self._error is not None:
            raise self._error
        return self.record

    def _open(self) -> None:
        """Take up what the journal holds, then say that a new session began."""
        events = self._journal.read()
        for event in events:
            self.record.apply(event)
        replay(events, self._strategy, self._reports[-1], self._spec.metric)
        now_s = self._now()
        self._write(
            Opened(
                at_s=now_s,
                study=self._study.to_document(),
                dataset_hash=self._settings.dataset_hash,
                versions=self._settings.versions,
            )
        )
        for trial in list(self.record.open_attempts()):
            self._write(
                AttemptOver(
                    at_s=now_s,
                    trial=trial.trial,
                    attempt=trial.attempts,
                    device_s=trial.device_s_by_attempt[trial.attempts],
                    why=Ending.ABANDONED,
                    step=trial.step,
                    detail="the driver ended before it",
                )
            )

    def _is_over(self) -> bool:
        return self._closing is not None and not self._meter.opened

    def _look(self) -> None:
        """Meter, and notice what ends the session."""
        now_s = self._now()
        if now_s - self._metered_s >= METER_EVERY_S:
            self._metered_s = now_s
            per_worker = self._meter.devices_per_worker
            self._write(
                *(
                    Metered(at_s=now_s, trial=one.trial, attempt=one.attempt, device_s=one.device_s(now_s, per_worker))
                    for one in self._meter.opened.values()
                )
            )
        if self._closing is None and self._settings.wants_stop():
            self._closing = (Close.INTERRUPTED, "asked to stop")
        if self._closing is None and (limit := reached(self._limits, self._spent())):
            self._closing = (Close(limit.value), f"the budget in {limit.value} is used up")

    def _end_running(self) -> None:
        now_s, at_once = self._now(), self._settings.wants_stop() > 1
        for attempt in self._meter.opened.values():
            late = attempt.told_to_stop_s is not None and now_s - attempt.told_to_stop_s > STOP_PATIENCE_S
            if attempt.told_to_stop_s is None or late or at_once:
                self._stop(attempt, Ending.INTERRUPTED, at_once=late or at_once)

    def _stop(self, attempt: OpenAttempt, why: Ending, *, at_once: bool = False) -> None:
        attempt.told_to_stop_s = self._now()
        attempt.why = attempt.why or why
        self._trials.stop(attempt.trial, at_once=at_once)

    # -- who runs -----------------------------------------------------------------------------------------------

    def _seat(self) -> None:
        """Start, resize and pause attempts until they are what the policy says; end when nothing is left."""
        seekers = self._seekers()
        may_be_new = self._may_draw()
        room = allot(self._trials.workers(), seekers, self._shape, may_draw=may_be_new)
        for attempt in list(self._meter.opened.values()):
            wanted = room.workers.get(attempt.trial, 0)
            if attempt.told_to_stop_s is None and attempt.to_step is not None and wanted != attempt.workers:
                self._stop(attempt, Ending.RESIZED if wanted else Ending.PREEMPTED)
        free = self._trials.workers() - sum(one.workers for one in self._meter.opened.values())
        for seeker in seekers:
            wanted = room.workers.get(seeker.trial, 0)
            if seeker.trial not in self._meter.opened and 0 < wanted <= free and self._begin(seeker.trial, wanted):
                free -= wanted
        for _ in range(min(room.room_for_new, free // self._shape.min_workers)):
            if not self._draw():
                break
        if not self._meter.opened:
            self._end_if_nothing_is_left(may_be_new)

    def _seekers(self) -> list[Seeker]:
        """Trials that hold workers or could take some, in the order in which they should get them."""
        alive = [trial for trial in self.record.trials.values() if not trial.state.is_over]
        running = [trial for trial in alive if trial.trial in self._meter.opened]
        idle = [trial for trial in alive if trial.trial not in self._meter.opened]
        free = [trial for trial in idle if not trial.is_held]
        held = [trial.trial for trial in idle if trial.is_held]
        first = self._strategy.resume_first(held) if held else None
        if first is None and held and not running and not free and not self._may_draw():
            # Everybody waits for somebody who is gone: the one who is furthest behind moves first.
            first = min(held, key=lambda one: (self.record.trials[one].step, one))
        free += [self.record.trials[first]] if first is not None else []
        return [self._seeker(trial) for trial in (*running, *free)]

    def _seeker(self, trial: TrialRecord) -> Seeker:
        job, attempt = self._job(trial), self._meter.opened.get(trial.trial)
        leaving = attempt is None or attempt.to_step is None or attempt.told_to_stop_s is not None
        rung_s = None
        if attempt is not None and not leaving and attempt.workers:
            per_step = self._meter.per_step(self.record, trial)
            held = attempt.workers * self._meter.devices_per_worker
            rung_s = attempt.steps_left() * per_step / held if per_step else None
        return Seeker(
            trial=trial.trial,
            step=trial.step,
            workers=attempt.workers if attempt else 0,
            batch=BatchPlan(job.batch.global_batch_size, job.batch.micro_batch_size),
            rung_s=rung_s,
        )

    def _begin(self, name: str, workers: int) -> bool:
        """Start an attempt if the budget allows its rung; ends the search where it does not."""
        trial = self.record.trials[name]
        to_step = next_report(self._reports, trial.step) or self._reports[-1]
        if not self._affords(trial, to_step - trial.step):
            return False
        attempt = trial.attempts + 1
        now_s = self._now()
        self._write(Began(at_s=now_s, trial=name, attempt=attempt, step=trial.step, workers=workers))
        self._meter.opened[name] = OpenAttempt(name, attempt, workers, now_s, trial.step, to_step, ran_to=trial.step)
        self._trials.start(
            Start(
                trial=name,
                attempt=attempt,
                run=trial.run,
                job=self._job(trial),
                reports=tuple(report for report in self._reports if report > trial.step),
                workers=workers,
            )
        )
        return True

    def _affords(self, trial: TrialRecord | None, steps: int) -> bool:
        expected = self._meter.expected(self.record) if self._meter.opened else Spent()
        rung = self._meter.rung(self.record, trial, steps)
        return may_run(self._limits, self._spent(), expected, rung)

    def _job(self, trial: TrialRecord) -> TrainJobSpec:
        job = apply(self._spec.template, trial.config)
        return job.model_copy(update={"data": job.data.model_copy(update={"seed": trial.seed})})

    # -- who is drawn -------------------------------------------------------------------------------------------

    def _may_draw(self) -> bool:
        """Whether the search may go on; remembers why not."""
        if self._no_more is None:
            self._no_more = why_no_more(self.record, self._spec, self._limits, self._settings.rates)
        if self._no_more is None and (failure := hopeless(self.record)):
            self._fail(failure)
        return self._no_more is None

    def _draw(self) -> bool:
        """Draw one trial and start it; False where none can be drawn or afforded now."""
        if not self._may_draw() or not self._affords(None, self._reports[0]):
            return False
        number = len(self.record.searched)
        name = f"t{number + 1:04d}"
        config = self._strategy.draw(name, number)
        if config is None:
            self._no_more = (Close.GRID, f"all {number} configurations were tried")
            return False
        self._add(Drawn(at_s=self._now(), trial=name, config=dict(config), seed=self._spec.template.data.seed))
        return True

    def _add(self, drawn: Drawn) -> None:
        self._write(drawn)
        trial = self.record.trials[drawn.trial]
        if problems := conflicts(self._job(trial)):
            self._end_trial(trial, TrialState.FAILED, "; ".join(problems))
        else:
            self._begin(drawn.trial, self._shape.min_workers)

    def _end_if_nothing_is_left(self, may_be_new: bool) -> None:
        is_alive = any(not trial.state.is_over for trial in self.record.trials.values())
        if not (may_be_new or is_alive or self._closing is not None or self._repeat()):
            self._closing = self._no_more

    def _repeat(self) -> bool:
        """Draw the best configurations again with other seeds; False where that is done or was not asked for."""
        drawn = repeats(self.record, self._spec, self._now())
        self._write(*drawn)
        return bool(drawn)

    # -- what trials say ----------------------------------------------------------------------------------------

    def _hear(self, news: News) -> None:
        attempt = self._meter.opened.get(news.trial)
        if attempt is None or attempt.attempt != news.attempt:
            return  # the last words of an attempt that is over
        match news:
            case Progress():
                attempt.ran_to = max([attempt.ran_to, *(step for step, _, _ in news.points)])
                self._write(Stepped(at_s=self._now(), trial=news.trial, points=news.points))
            case Report():
                self._reported(news, attempt)
            case Left():
                self._left(news, attempt)

    def _reported(self, news: Report, attempt: OpenAttempt) -> None:
        trial = self.record.trials[news.trial]
        value = news.metrics.get(self._spec.metric)
        if value is None:
            self._unknown_metric(news)
        ruling, detail, verdict = self._rule(trial, news.step, value)
        copies = self._copies(verdict, news)
        now_s = self._now()
        reported = Reported(
            at_s=now_s,
            trial=news.trial,
            attempt=news.attempt,
            step=news.step,
            metrics=news.metrics,
            device_s=attempt.device_s(now_s, self._meter.devices_per_worker),
            ruling=ruling,
            detail=detail,
            stops=verdict.stops if verdict else (),
            copies=copies,
        )
        # On disk first: what a trial is told must be known to whoever drives the study after a crash.
        self._write(reported)
        following = next_report(self._reports, news.step)
        is_copied = any(copy.trial == news.trial for copy in copies)
        if (
            ruling is Ruling.GO_ON
            and following is not None
            and not is_copied
            and self._goes_on(trial, attempt, following)
        ):
            attempt.from_step, attempt.to_step = news.step, following
            self._trials.go_on(news.trial)
        else:
            attempt.to_step, attempt.why = None, attempt.why or Ending.LEFT
            self._trials.leave(news.trial)

    def _goes_on(self, trial: TrialRecord, attempt: OpenAttempt, following: int) -> bool:
        if self._closing is not None or attempt.told_to_stop_s is not None:
            return False
        attempt.to_step = None  # its own rung is over: only the others' are still expected
        return self._affords(trial, following - trial.step)

    def _rule(self, trial: TrialRecord, step: int, value: float | None) -> tuple[Ruling, str, Verdict | None]:
        if value is None or not math.isfinite(value):
            self._tell_strategy(trial, TrialState.FAILED, step, None)
            return Ruling.FAIL, f"{self._spec.metric} is {value} after step {step}", None
        if step >= self._reports[-1]:
            self._tell_strategy(trial, TrialState.FINISHED, step, value)
            return Ruling.FINISH, "", None
        if trial.repeat_of:
            return Ruling.GO_ON, "", None
        verdict = self._strategy.reported(trial.trial, step, value)
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
            source, target = self.record.trials[copy.source], self.record.trials[copy.trial]
            step = news.step if copy.source == news.trial else source.step
            generation = (target.changes[-1].generation if target.changes else 0) + 1
            self._trials.copy_state(source.run, step, f"{target.trial}.g{generation}")
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
        self._fail(
            f"the task reports no {self._spec.metric}; it reports {known}",
            where="spec.metric",
            next_step="Name one of those",
        )

    def _left(self, news: Left, attempt: OpenAttempt) -> None:
        trial = self.record.trials[news.trial]
        now_s = self._now()
        del self._meter.opened[news.trial]
        why = _ending(news, attempt)
        over = AttemptOver(
            at_s=now_s,
            trial=news.trial,
            attempt=news.attempt,
            device_s=attempt.device_s(now_s, self._meter.devices_per_worker),
            why=why,
            step=trial.step if why is Ending.LEFT else news.step,
            lost_steps=max(0, news.ran_to - news.step) if why in (Ending.LOST, Ending.FAILED) else 0,
            detail=news.detail,
        )
        self._write(over)
        if why is Ending.FAILED and not trial.state.is_over:
            retries = self._spec.template.retries.failures
            if news.kind not in _MAY_HELP or trial.failures > retries:
                self._end_trial(trial, TrialState.FAILED, f"{news.kind}: {news.detail}")

    def _end_trial(self, trial: TrialRecord, state: TrialState, detail: str) -> None:
        self._write(TrialOver(at_s=self._now(), trial=trial.trial, state=state, detail=detail))
        self._tell_strategy(trial, state, trial.step, None)

    def _tell_strategy(self, trial: TrialRecord, state: TrialState, step: int, value: float | None) -> None:
        if not trial.repeat_of:
            self._strategy.ended(trial.trial, state, step, value)

    def _fail(self, problem: str, *, where: str = "", next_step: str = "") -> None:
        """The study itself is wrong: end it, and say so when everything has left."""
        if self._error is None:
            code = ExitCode.INVALID if where else ExitCode.JOB_FAILED
            self._error = UserError(problem, code=code, where=where, next_step=next_step)
            self._closing = (Close.FAILED, problem)

    def _spent(self) -> Spent:
        return self._meter.now(self.record, self._now())

    def _now(self) -> float:
        return self._trials.now_s()

    def _write(self, *events: Event) -> None:
        if not events:
            return
        self._journal.append(events)
        for event in events:
            self.record.apply(event)
            self._settings.on_event(event, self.record)


def _ending(news: Left, attempt: OpenAttempt) -> Ending:
    match news.how:
        case Leaving.ORDERLY:
            return Ending(attempt.why or (Ending.LEFT if attempt.to_step is None else Ending.PREEMPTED))
        case Leaving.LOST:
            # Who was told to leave after a report has nothing left to lose.
            return Ending.LEFT if attempt.to_step is None else Ending.LOST
        case Leaving.FAILED:
            return Ending.FAILED
