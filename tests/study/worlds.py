"""A world in which studies run in no time: trials whose curves are formulas, on workers that come and go."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.adapters.ray_tune.strategy import TuneStrategy
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study, load_text
from orchestrator.study.driver import Driver, Settings
from orchestrator.study.journal import Journal
from orchestrator.study.ports import Leaving, Left, News, Progress, Report, Start
from orchestrator.study.record import StudyRecord

STARTS_AT_S = 1_000_000.0

STUDY = """
apiVersion: tideline/v1
kind: Study
metadata: {{name: {name}}}
spec:
  template:
    workers: {{min: {workers_min}, max: {workers_max}}}
    task: jobs.models.gpt:task
    args: {{layers: 2, d_model: 32}}
    data: {{dataset: corpus@latest}}
    batch: {{global_batch_size: 32, micro_batch_size: 4}}
    steps: {steps}
    optimizer: {{lr: "1e-3"}}
  space: {space}
  searcher: {searcher}
  scheduler: {scheduler}
  metric: bits_per_byte
  mode: min
  concurrency: {{min: {concurrency_min}, max: {concurrency_max}}}
  budget: {budget}
  seed: {seed}
{more}
"""
SPACE = "{optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-1}}"


def make_study(**changes: Any) -> Study:
    """A study of 9 random trials with ASHA, changed as asked."""
    values: dict[str, Any] = {
        "name": "search",
        "workers_min": 1,
        "workers_max": 1,
        "steps": 90,
        "space": SPACE,
        "searcher": "{name: random}",
        "scheduler": "{name: asha, grace_steps: 10, reduction_factor: 3}",
        "concurrency_min": 1,
        "concurrency_max": 3,
        "budget": "{trials: 9}",
        "seed": 0,
        "more": "",
    }
    (study,) = load_text(STUDY.format(**(values | changes)))
    assert isinstance(study, Study)
    return study


def quality(config: Mapping[str, Any], step: int) -> float:
    """Falls with steps towards a floor that is lowest at a rate of 1e-2."""
    import math

    distance = math.log10(float(config.get("optimizer.lr", 1e-2))) + 2.0
    return 2.0 + distance**2 + 4.0 / (1.0 + step / 10.0)


@dataclass(slots=True)
class _Attempt:
    start: Start
    step: int
    steps_per_s: float
    began_s: float
    runs: bool = True
    reports: list[int] = field(default_factory=list)
    ready_s: float = 0.0


@dataclass
class World:
    """Virtual time, workers by a function of it, and trials that report what `curve` says.

    `step_s` is one step of one micro-batch pass. `lose_at`: times at which the attempt that came first is lost.
    `lose_reports`: steps whose first report is not heard, because the node dies when the state has just been saved.
    `dies_at_s`: the driver is killed then, by `Killed` from `poll`.
    """

    workers_at: Callable[[float], int] = lambda now_s: 3
    curve: Callable[[Start, int], dict[str, float]] = lambda start, step: {"bits_per_byte": curve_of(start, step)}
    step_s: float = 0.1
    startup_s: float = 1.0
    noise: Callable[[], float] = lambda: 1.0
    lose_at: tuple[float, ...] = ()
    lose_reports: tuple[int, ...] = ()
    clock_s: float = STARTS_AT_S
    states: dict[str, int] = field(default_factory=dict)
    running: dict[str, _Attempt] = field(default_factory=dict)
    queue: list[tuple[float, int, News]] = field(default_factory=list)
    count: Any = field(default_factory=itertools.count)
    most_running: int = 0
    most_workers: int = 0
    copied: list[tuple[str, int, str]] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    dies_after_polls: int | None = None
    polls: int = 0

    def now_s(self) -> float:
        return self.clock_s

    def workers(self) -> int:
        return self.workers_at(self.clock_s - STARTS_AT_S)

    def start(self, start: Start) -> None:
        step = self.states.get(start.run, 0)
        plan = BatchPlan(start.job.batch.global_batch_size, start.job.batch.micro_batch_size)
        per_s = 1.0 / (self.step_s * self.noise() * plan.passes(start.workers))
        attempt = _Attempt(start, step, per_s, self.clock_s, ready_s=self.clock_s + self.startup_s)
        assert start.trial not in self.running
        self.running[start.trial] = attempt
        self.starts.append(start)
        self.most_running = max(self.most_running, len(self.running))
        self.most_workers = max(self.most_workers, sum(one.start.workers for one in self.running.values()))
        self._to_next_report(attempt)

    def _to_next_report(self, attempt: _Attempt) -> None:
        start = attempt.start
        following = next(report for report in start.reports if report >= attempt.step and report not in attempt.reports)
        attempt.reports.append(following)
        at_s = max(self.clock_s, attempt.ready_s) + (following - attempt.step) / attempt.steps_per_s
        attempt.began_s = max(self.clock_s, attempt.ready_s)
        points = tuple((step, 1.0, 1e-3) for step in range(attempt.step + 1, following + 1))
        self._post(at_s, Progress(trial=start.trial, attempt=start.attempt, points=points))
        metrics = self.curve(start, following)
        self._post(at_s, Report(trial=start.trial, attempt=start.attempt, step=following, metrics=metrics))

    def _post(self, at_s: float, news: News) -> None:
        heapq.heappush(self.queue, (at_s, next(self.count), news))

    def go_on(self, trial: str) -> None:
        self._to_next_report(self.running[trial])

    def leave(self, trial: str) -> None:
        attempt = self.running[trial]
        self._end(attempt, Leaving.ORDERLY, attempt.step)

    def stop(self, trial: str, *, at_once: bool = False) -> None:
        attempt = self.running.get(trial)
        if attempt is None or not attempt.runs:
            return
        ran = max(0, int((self.clock_s - attempt.began_s) * attempt.steps_per_s))
        step = attempt.step if at_once else max(attempt.step, min(attempt.step + ran, attempt.reports[-1]))
        self.states[attempt.start.run] = step
        self._end(attempt, Leaving.ORDERLY, step)

    def _end(self, attempt: _Attempt, how: Leaving, step: int) -> None:
        attempt.runs = False
        trial, number = attempt.start.trial, attempt.start.attempt
        self.queue = [one for one in self.queue if one[2].trial != trial]
        heapq.heapify(self.queue)
        self._post(self.clock_s, Left(trial=trial, attempt=number, how=how, step=step, ran_to=step))

    def copy_state(self, source_run: str, step: int, target_run: str) -> None:
        self.copied.append((source_run, step, target_run))
        self.states[target_run] = step

    def poll(self, timeout_s: float) -> list[News]:
        self.polls += 1
        if self.dies_after_polls is not None and self.polls > self.dies_after_polls:
            raise Killed
        until_s = self.clock_s + timeout_s
        if self.queue and self.queue[0][0] <= until_s:
            until_s = max(self.clock_s, self.queue[0][0])
        self._lose(until_s)
        self.clock_s = until_s
        news: list[News] = []
        while self.queue and self.queue[0][0] <= self.clock_s:
            one = heapq.heappop(self.queue)[2]
            if isinstance(one, Report) and one.step in self.lose_reports:
                self.lose_reports = tuple(step for step in self.lose_reports if step != one.step)
                attempt = self.running[one.trial]
                self.states[attempt.start.run] = one.step
                self._end(attempt, Leaving.LOST, one.step)
                continue
            news.append(self._deliver(one))
        return news

    def _deliver(self, news: News) -> News:
        attempt = self.running[news.trial]
        match news:
            case Report():
                attempt.step = news.step
                self.states[attempt.start.run] = news.step
            case Left():
                del self.running[news.trial]
        return news

    def _lose(self, until_s: float) -> None:
        due = [at for at in self.lose_at if at <= until_s - STARTS_AT_S]
        self.lose_at = tuple(at for at in self.lose_at if at not in due)
        for _ in due:
            alive = [attempt for attempt in self.running.values() if attempt.runs]
            if alive:
                self._end(alive[0], Leaving.LOST, alive[0].step)

    def restarted(self) -> World:
        """The same world after its driver died: states stay, attempts are gone."""
        self.running, self.queue, self.dies_after_polls = {}, [], None
        return self


class Killed(BaseException):
    """The driver's process is gone."""


def curve_of(start: Start, step: int) -> float:
    return quality({"optimizer.lr": start.job.optimizer.lr}, step)


def drive(study: Study, folder: Path, world: World, rates: Rates | None = None, **settings: Any) -> StudyRecord:
    """Run a study in a world, with Tune's real searchers and schedulers."""
    with Journal(folder) as journal:
        strategy = TuneStrategy(study.spec, settings.get("earlier", ()))
        return Driver(study, journal, strategy, world, Settings(rates=rates or Rates(), **settings)).run()
