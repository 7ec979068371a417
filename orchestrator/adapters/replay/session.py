"""Runs a job on local nodes that come and go as recorded, then once more on nodes that stay, and compares.

Everything happens in this process: the run asks a few times a second whether to stop, in the main thread, and that is
the moment in which nodes are started and ended. Starting one holds the run's driver up for about a second; how much
that was in all is part of the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_train.events import Event, StepDone
from orchestrator.adapters.ray_train.governor import Habits
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.adapters.ray_train.run import HABITS, RunOptions, RunResult, run_train_job
from orchestrator.adapters.replay.outcome import Curve, Recovery, compare, recoveries
from orchestrator.adapters.replay.player import NOTICE_S, Player
from orchestrator.adapters.replay.recording import NodeEvent
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import ExitCode, UserError

FIXED_SUFFIX = "-fixed"
Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaying:
    """How a recording is played. `seconds` and `notice_s` are in the recording's time, `speed` is how much faster."""

    events: Sequence[NodeEvent]
    seconds: float
    speed: float
    notice_s: float = NOTICE_S
    compare: bool = True
    habits: Habits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of it. `curve` is None when nothing was compared; `busy_s` went into starting and ending nodes;
    `interrupted`: by a signal, rather than by the end of the recording."""

    run: RunResult
    played: dict[str, int]
    recoveries: tuple[Recovery, ...]
    training_goodput: float | None
    steps_lost: int
    waiting_s: float
    busy_s: float
    curve: Curve | None
    interrupted: bool


class Director:
    """Asked whether to stop; plays what is due first. The recording's time begins with the run's first step.

    A wish of the user's own, from `signals`, goes before everything.
    """

    def __init__(
        self,
        player: Player,
        seconds: float,
        signals: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._player = player
        self._seconds = seconds
        self._signals = signals
        self._clock = clock
        self._began_s: float | None = None

    def on_event(self, event: Event) -> None:
        """Take in one event of the run."""
        if self._began_s is None and isinstance(event, StepDone):
            self._began_s = self._clock()

    def __call__(self) -> int:
        if (wanted := self._signals()) or self._began_s is None:
            return wanted
        elapsed_s = self._clock() - self._began_s
        if elapsed_s >= self._seconds:
            return 1
        self._player.play_due(elapsed_s)
        return 0


def replay(
    job: TrainJob,
    home: Path,
    how: Replaying,
    *,
    signals: Callable[[], int] = lambda: 0,
    on_event: Listener = lambda event: None,
    say: Callable[[str], None] = lambda line: None,
) -> Replayed:
    """Play the recording while the job trains; then train the same steps at one size, and compare.

    Raises: UserError as `check` does.
    """
    check(job, how)
    size = node_size(job)
    events: list[Event] = []
    habits = how.habits or compressed(HABITS, how.speed)
    with LocalCluster((NodeSize(num_cpus=0),)) as cluster:
        player = Player(cluster, size, how.events, speed=how.speed, notice_s=how.notice_s)
        player.start()
        director = Director(player, how.seconds / how.speed, signals)
        options = RunOptions(wants_stop=director, habits=habits)
        run = run_train_job(job, home, on_event=_all(events.append, director.on_event, on_event), options=options)
    record = RunRecord.of(run.run_id, events)
    curve = None
    if how.compare and run.steps and not signals():
        say(f"the same {run.steps} steps at one size, {job.spec.workers.min}, on nodes that stay")
        curve = compare(events, _fixed(job, home, size, run.steps, signals, on_event))
    return Replayed(
        run=run,
        played=dict(player.played),
        recoveries=recoveries(events),
        training_goodput=record.to_json()["training_goodput"],
        steps_lost=sum(record.lost_steps.values()),
        waiting_s=record.waiting_s(),
        busy_s=player.busy_s,
        curve=curve,
        interrupted=bool(signals()),
    )


def _fixed(
    job: TrainJob, home: Path, size: NodeSize, steps: int, signals: Callable[[], int], on_event: Listener
) -> list[Event]:
    """The events of the same job at its smallest size, on nodes that stay, until it has made so many steps."""
    events: list[Event] = []
    workers = job.spec.workers.model_copy(update={"max": job.spec.workers.min})
    spec = job.spec.model_copy(update={"workers": workers, "register": None})
    metadata = job.metadata.model_copy(update={"name": job.metadata.name + FIXED_SUFFIX})
    fixed = job.model_copy(update={"spec": spec, "metadata": metadata})

    def wants_stop() -> int:
        done = any(isinstance(event, StepDone) and event.step >= steps for event in reversed(events[-50:]))
        return signals() or int(done)

    with LocalCluster((NodeSize(num_cpus=0), *[size] * workers.min)):
        options = RunOptions(wants_stop=wants_stop)
        run_train_job(fixed, home, on_event=_all(events.append, on_event), options=options)
    return events


def node_size(job: TrainJob) -> NodeSize:
    """One node holds one worker. Raises: UserError for a job that needs GPUs: local nodes only pretend to have CPUs."""
    resources = job.spec.workers.resources
    if resources.GPU:
        raise UserError(
            f"spec.workers.resources.GPU: {resources.GPU:g}; nodes that come and go on this machine have no GPUs",
            code=ExitCode.NEVER,
            where=job.metadata.name,
            next_step="Play it with a job that asks for CPUs only.",
        )
    return NodeSize(num_cpus=max(1.0, resources.CPU), resources=dict(resources.custom))


def compressed(habits: Habits, speed: float) -> Habits:
    """Restraint in a world that moves `speed` times as fast."""
    rules = replace(
        habits.rules,
        dwell_s=habits.rules.dwell_s / speed,
        settle_s=habits.rules.settle_s / speed,
        collect_s=habits.rules.collect_s / speed,
    )
    return replace(habits, rules=rules, stay_s=habits.stay_s / speed)


def check(job: TrainJob, how: Replaying) -> None:
    """Raises: UserError (never) for a job that needs GPUs, or more workers than nodes are there at the beginning."""
    node_size(job)
    there = sum(event.at_s == 0.0 for event in how.events)
    if there < job.spec.workers.min:
        raise UserError(
            f"spec.workers.min: {job.spec.workers.min} workers, and {there} of the played nodes are there at the "
            "beginning",
            code=ExitCode.NEVER,
            where=job.metadata.name,
            next_step="Lower workers.min, or play a larger share of the nodes with a smaller --share.",
        )


def _all(*listeners: Listener) -> Listener:
    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
