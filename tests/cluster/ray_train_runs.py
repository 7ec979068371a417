"""Jobs, runs and what is watched of them, for the tests of training on real Ray."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.adapters.ray_train.events import AttemptOpened, Event, StepDone
from orchestrator.adapters.ray_train.governor import Habits
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from orchestrator.adapters.ray_train.lookout import LOOK_EVERY_S
from orchestrator.adapters.ray_train.run import RunOptions, RunResult, run_train_job
from orchestrator.policy.resize import ResizeRules
from orchestrator.spec import TrainJob, load_text

E = TypeVar("E", bound=Event)
SNAPSHOT_EVERY = 5
# Seconds that every pass waits: slow while nodes warm up, so that a run does not end before they have; then a little,
# so that things can happen between two steps; then not at all.
SLOW, STEADY, FAST = 0.4, 0.05, 0.0
PACE = Path(tempfile.mkdtemp(prefix="tide-pace-")) / "pace"
atexit.register(shutil.rmtree, PACE.parent, ignore_errors=True)
ROOT = Path(__file__).resolve().parents[2]

# Eager, so that a test need not wait for restraint that other tests cover.
EAGER = Habits(
    rules=ResizeRules(dwell_s=0.5, settle_s=0.0, collect_s=1.0, margin=0.1), stay_s=3600.0, stall_s=2.0, stop_s=2.0
)

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: {name}}}
spec:
  workers: {{min: {low}, max: {high}}}
  runtime: {{working_dir: {root}}}
  task: tests.cluster.ray_train_task:task
  args: {{pace_file: {pace_file}}}
  data: {{dataset: corpus@latest, seed: 3}}
  batch: {{global_batch_size: 22, micro_batch_size: 2}}
  steps: {steps}
  optimizer: {{lr: "1e-3"}}
  deepspeed: {{zero_stage: {zero_stage}, precision: fp32}}
  hang_timeout: {hang_timeout_s}s
  checkpoint: {{every: 600s, snapshot_every_steps: {snapshot_every}}}
"""


def make_job(
    name: str,
    *,
    low: int = 2,
    high: int = 2,
    steps: int = 20,
    zero_stage: int = 1,
    hang_timeout_s: int = 120,
) -> TrainJob:
    text = JOB.format(
        name=name,
        low=low,
        high=high,
        root=ROOT,
        steps=steps,
        pace_file=PACE,
        zero_stage=zero_stage,
        snapshot_every=SNAPSHOT_EVERY,
        hang_timeout_s=hang_timeout_s,
    )
    (job,) = load_text(text, where=name)
    assert isinstance(job, TrainJob)
    return job


@dataclass
class Watch:
    """Collects a run's events and does things when their time has come, each once."""

    plan: list[tuple[Callable[[Watch], bool], Callable[[], object]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.plan and self.plan[0][0](self):
            self.plan.pop(0)[1]()
            self.set_pace()

    def set_pace(self) -> None:
        """Passes wait as what is awaited next needs it."""
        set_pace(FAST if not self.plan else SLOW if isinstance(self.plan[0][0], Warm | Slowly) else STEADY)

    @property
    def steps(self) -> list[StepDone]:
        return self.of(StepDone)

    @property
    def attempts(self) -> list[AttemptOpened]:
        return self.of(AttemptOpened)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def has(self, kind: type[Event]) -> bool:
        return bool(self.of(kind))

    def made(self, steps: int, *, attempt: int = 1) -> bool:
        """Whether this attempt has made so many steps."""
        return sum(step.attempt == attempt for step in self.steps) >= steps


class Slowly:
    """A condition that is waited for at a crawl, so that the run's steps do not end before."""

    def __init__(self, holds: Callable[[Watch], bool]) -> None:
        self._holds = holds

    def __call__(self, watch: Watch) -> bool:
        return self._holds(watch)


class Warm:
    """True when the agents of these nodes have been warm for a moment, so that the driver has seen them all."""

    def __init__(self, nodes: list[str]) -> None:
        self._nodes = nodes
        self._since_s: float | None = None

    def __call__(self, watch: Watch) -> bool:
        if self._since_s is None and self._nodes and all(_is_warm(node) for node in self._nodes):
            self._since_s = time.monotonic()
        return self._since_s is not None and time.monotonic() - self._since_s > 2 * LOOK_EVERY_S


def _is_warm(node_id: str) -> bool:
    for found in ray.util.list_named_actors(all_namespaces=True):
        if found["name"].startswith("tide-agent-") and found["name"].endswith(node_id[:16]):
            agent = ray.get_actor(found["name"], namespace=found["namespace"])
            return bool(ray.wait([agent.facts.remote()], timeout=0.1)[0])
    return False


def set_pace(seconds: float) -> None:
    """How long every pass waits from now on."""
    draft = PACE.with_suffix(".draft")
    draft.write_text(str(seconds))
    draft.replace(PACE)


def pin(home: Path, name: str, workers: int | None) -> None:
    """What `tide resize` does: hold the size, or let it follow capacity again."""
    FileLease(home / "runs" / name).write(Lease(workers=workers))


def run(job: TrainJob, home: Path, watch: Watch, **options: object) -> RunResult:
    watch.set_pace()
    merged = {"habits": EAGER, **options}
    return run_train_job(job, home, on_event=watch, options=RunOptions(**merged))  # type: ignore[arg-type]


def losses(watch: Watch) -> dict[int, float]:
    """The loss of every step; of a step that was made again the last one."""
    return {step.step: step.loss for step in watch.steps}


def ledger(watch: Watch) -> dict[int, tuple[int, int]]:
    return {step.step: step.ledger for step in watch.steps}


class Foreign:
    """Somebody else's actor."""

    def ping(self) -> bool:
        return True


def foreign_actor(node_id: str) -> ray.actor.ActorHandle:
    """Somebody else's actor that holds one CPU of this node, as soon as there is one."""
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(Foreign).options(num_cpus=1, scheduling_strategy=on_node).remote()


def is_up(actor: ray.actor.ActorHandle) -> bool:
    """Whether the actor has got its room, now or as soon as its process has started, however busy the machine."""
    try:
        return bool(ray.get(actor.ping.remote(), timeout=120.0))
    except ray.exceptions.RayError:
        return False


def same(watch: Watch, reference: Watch, *, steps: int) -> None:
    """Every step has the loss and the samples of the fixed-size run."""
    wanted, made = losses(reference), losses(watch)
    assert sorted(made) == list(range(1, steps + 1))
    assert made == pytest.approx({step: wanted[step] for step in made}, rel=1e-5)
    assert ledger(watch) == {step: ledger(reference)[step] for step in made}
