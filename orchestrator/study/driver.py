"""The driver's loop of one study: hear, meter, decide, write down, and only then tell.

Everything that follows from an event is decided from the record, so a driver that is killed at any point goes on from
its journal: searcher and scheduler are fed the same calls again, ended trials are never run again, and what was running
goes on from its newest saved step.
"""

from __future__ import annotations

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.study.allot import Seeker, Shape, allot
from orchestrator.policy.study.budget import reached
from orchestrator.policy.study.rungs import next_report
from orchestrator.policy.study.space import conflicts
from orchestrator.policy.study.values import TrialState
from orchestrator.spec import Study
from orchestrator.study.desk import Desk, Settings
from orchestrator.study.events import (
    AttemptOver,
    Began,
    Close,
    Closed,
    Drawn,
    Ending,
    Metered,
    Opened,
)
from orchestrator.study.hearing import Hearing
from orchestrator.study.journal import Journal
from orchestrator.study.meter import OpenAttempt
from orchestrator.study.ports import Start, Strategy, Trials
from orchestrator.study.record import StudyRecord, TrialRecord
from orchestrator.study.replay import replay
from orchestrator.study.search import hopeless, repeats, why_no_more

POLL_S = 0.25
METER_EVERY_S = 5.0
# An orderly stop needs two steps and a save; an attempt that is longer at it is killed.
STOP_PATIENCE_S = 60.0


__all__ = ["Driver", "Settings"]


class Driver:
    """One session of a study. `run` returns the record when the study is over or was stopped."""

    def __init__(self, study: Study, journal: Journal, strategy: Strategy, trials: Trials, settings: Settings) -> None:
        self._desk = Desk(study, journal, strategy, trials, settings)
        self._hearing = Hearing(self._desk)
        workers, concurrency = study.spec.template.workers, study.spec.concurrency
        self._shape = Shape(
            min_workers=workers.min,
            max_workers=workers.max,
            min_trials=concurrency.min,
            max_trials=concurrency.max,
            stall_s=settings.stall_s,
        )
        self._no_more: tuple[Close, str] | None = None
        self._metered_s = 0.0

    @property
    def record(self) -> StudyRecord:
        """The study as it stands."""
        return self._desk.record

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> StudyRecord:
        """Raises: UserError for what makes the whole study wrong, such as a metric that its task does not report."""
        self._open()
        while not self._is_over():
            for news in self._desk.trials.poll(POLL_S):
                self._hearing.hear(news)
            self._look()
            if self._desk.closing is None:
                self._seat()
            else:
                self._end_running()
        assert self._desk.closing is not None
        why, detail = self._desk.closing
        self._desk.write(Closed(at_s=self._desk.now(), why=why, detail=detail))
        if self._desk.error is not None:
            raise self._desk.error
        return self._desk.record

    def _open(self) -> None:
        """Take up what the journal holds, then say that a new session began."""
        events = self._desk.journal.read()
        for event in events:
            self._desk.record.apply(event)
        replay(events, self._desk.strategy, self._desk.reports[-1], self._desk.spec.metric)
        now_s = self._desk.now()
        self._desk.write(
            Opened(
                at_s=now_s,
                study=self._desk.study.to_document(),
                dataset_hash=self._desk.settings.dataset_hash,
                versions=self._desk.settings.versions,
                earlier=self._desk.settings.earlier,
            )
        )
        for trial in list(self._desk.record.open_attempts()):
            self._desk.write(
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
        return self._desk.closing is not None and not self._desk.meter.opened

    def _look(self) -> None:
        """Meter, see that those who should leave do, and notice what ends the session."""
        now_s = self._desk.now()
        self._hurry(now_s)
        if now_s - self._metered_s >= METER_EVERY_S:
            self._metered_s = now_s
            per_worker = self._desk.meter.devices_per_worker
            self._desk.write(
                *(
                    Metered(at_s=now_s, trial=one.trial, attempt=one.attempt, device_s=one.device_s(now_s, per_worker))
                    for one in self._desk.meter.opened.values()
                )
            )
        if self._desk.closing is None and self._desk.settings.wants_stop():
            self._desk.closing = (Close.INTERRUPTED, "asked to stop")
        if self._desk.closing is None and (limit := reached(self._desk.limits, self._desk.spent())):
            self._desk.closing = (Close(limit.value), f"the budget in {limit.value} is used up")

    def _end_running(self) -> None:
        """Ask everybody to leave; who is asked twice by the user leaves at once."""
        at_once = self._desk.settings.wants_stop() > 1
        for attempt in self._desk.meter.opened.values():
            if attempt.told_to_stop_s is None or at_once:
                self._desk.stop(attempt, Ending.INTERRUPTED, at_once=at_once)

    def _hurry(self, now_s: float) -> None:
        """Kill who was told to leave and does not."""
        for attempt in self._desk.meter.opened.values():
            if attempt.told_to_stop_s is not None and now_s - attempt.told_to_stop_s > STOP_PATIENCE_S:
                self._desk.stop(attempt, Ending.INTERRUPTED, at_once=True)

    # -- who runs -----------------------------------------------------------------------------------------------

    def _seat(self) -> None:
        """Start, resize and pause attempts until they are what the policy says; end when nothing is left."""
        seekers = self._seekers()
        may_be_new = self._may_draw()
        room = allot(self._desk.trials.workers(), seekers, self._shape, may_draw=may_be_new)
        for attempt in list(self._desk.meter.opened.values()):
            wanted = room.workers.get(attempt.trial, 0)
            if attempt.told_to_stop_s is None and attempt.to_step is not None and wanted != attempt.workers:
                self._desk.stop(attempt, Ending.RESIZED if wanted else Ending.PREEMPTED)
        free = self._desk.trials.workers() - sum(one.workers for one in self._desk.meter.opened.values())
        for seeker in seekers:
            wanted = room.workers.get(seeker.trial, 0)
            if seeker.trial not in self._desk.meter.opened and 0 < wanted <= free and self._begin(seeker.trial, wanted):
                free -= wanted
        for _ in range(min(room.room_for_new, free // self._shape.min_workers)):
            if not self._draw():
                break
        if not self._desk.meter.opened:
            self._end_if_nothing_is_left(may_be_new)

    def _seekers(self) -> list[Seeker]:
        """Trials that hold workers or could take some, in the order in which they should get them."""
        alive = [trial for trial in self._desk.record.trials.values() if not trial.state.is_over]
        running = [trial for trial in alive if trial.trial in self._desk.meter.opened]
        idle = [trial for trial in alive if trial.trial not in self._desk.meter.opened]
        free = [trial for trial in idle if not trial.is_held]
        held = [trial.trial for trial in idle if trial.is_held]
        first = self._desk.strategy.resume_first(held) if held else None
        if first is None and held and not running and not free and not self._may_draw():
            # Everybody waits for somebody who is gone: the one who is furthest behind moves first.
            first = min(held, key=lambda one: (self._desk.record.trials[one].step, one))
        free += [self._desk.record.trials[first]] if first is not None else []
        return [self._seeker(trial) for trial in (*running, *free)]

    def _seeker(self, trial: TrialRecord) -> Seeker:
        job, attempt = self._desk.job(trial), self._desk.meter.opened.get(trial.trial)
        leaving = attempt is None or attempt.to_step is None or attempt.told_to_stop_s is not None
        rung_s = None
        if attempt is not None and not leaving and attempt.workers:
            per_step = self._desk.meter.per_step(self._desk.record, trial)
            held = attempt.workers * self._desk.meter.devices_per_worker
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
        trial = self._desk.record.trials[name]
        to_step = next_report(self._desk.reports, trial.reported) or self._desk.reports[-1]
        if not self._desk.affords(trial, to_step - trial.step):
            return False
        attempt = trial.attempts + 1
        now_s = self._desk.now()
        self._desk.write(Began(at_s=now_s, trial=name, attempt=attempt, step=trial.step, workers=workers))
        self._desk.meter.opened[name] = OpenAttempt(
            name, attempt, workers, now_s, trial.step, to_step, ran_to=trial.step
        )
        self._desk.trials.start(
            Start(
                trial=name,
                attempt=attempt,
                run=trial.run,
                step=trial.step,
                job=self._desk.job(trial),
                reports=tuple(report for report in self._desk.reports if report > trial.reported),
                workers=workers,
            )
        )
        return True

    # -- who is drawn -------------------------------------------------------------------------------------------

    def _may_draw(self) -> bool:
        """Whether the search may go on; remembers why not."""
        if self._no_more is None:
            self._no_more = why_no_more(
                self._desk.record, self._desk.spec, self._desk.limits, self._desk.settings.rates
            )
        if self._no_more is None and (failure := hopeless(self._desk.record)):
            self._desk.fail(failure)
        return self._no_more is None

    def _draw(self) -> bool:
        """Draw one trial and start it; False where none can be drawn or afforded now."""
        if not self._may_draw() or not self._desk.affords(None, self._desk.reports[0]):
            return False
        number = len(self._desk.record.searched)
        name = f"t{number + 1:04d}"
        config = self._desk.strategy.draw(name, number)
        if config is None:
            self._no_more = (Close.GRID, f"all {number} configurations were tried")
            return False
        self._add(
            Drawn(at_s=self._desk.now(), trial=name, config=dict(config), seed=self._desk.spec.template.data.seed)
        )
        return True

    def _add(self, drawn: Drawn) -> None:
        self._desk.write(drawn)
        trial = self._desk.record.trials[drawn.trial]
        if problems := conflicts(self._desk.job(trial)):
            self._desk.end_trial(trial, TrialState.FAILED, "; ".join(problems))
        else:
            self._begin(drawn.trial, self._shape.min_workers)

    def _end_if_nothing_is_left(self, may_be_new: bool) -> None:
        is_alive = any(not trial.state.is_over for trial in self._desk.record.trials.values())
        if not (may_be_new or is_alive or self._desk.closing is not None or self._repeat()):
            self._desk.closing = self._no_more

    def _repeat(self) -> bool:
        """Draw the best configurations again with other seeds; False where that is done or was not asked for."""
        drawn = repeats(self._desk.record, self._desk.spec, self._desk.now())
        self._desk.write(*drawn)
        return bool(drawn)
