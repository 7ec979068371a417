"""Jobs on real Ray, Ray Train and DeepSpeed: to the end, over failures, and over changes of their size."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray

from jobs.data import pack
from jobs.models.load import load_model
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_cluster.processes import node_processes
from orchestrator.adapters.ray_train.domains import TOPOLOGY_LABEL, ZONE_LABEL, read_domains
from orchestrator.adapters.ray_train.events import (
    AttemptOpened,
    Cause,
    Event,
    Status,
    StepDone,
)
from orchestrator.adapters.ray_train.governor import Habits
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.adapters.ray_train.record_store import load_events
from orchestrator.adapters.ray_train.run import RunOptions, RunResult, run_train_job
from orchestrator.policy.resize import ResizeRules
from orchestrator.spec import TrainJob, load_text

pytestmark = pytest.mark.cluster
SNAPSHOT_EVERY = 5
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
  args: {{pause_s: {pause_s}}}
  data: {{dataset: corpus@latest, seed: 3}}
  batch: {{global_batch_size: 22, micro_batch_size: 2}}
  steps: {steps}
  optimizer: {{lr: "1e-3"}}
  deepspeed: {{zero_stage: {zero_stage}, precision: fp32}}
  checkpoint: {{every: 600s, snapshot_every_steps: {snapshot_every}}}
"""


def make_job(
    name: str, *, low: int = 2, high: int = 2, steps: int = 20, pause_s: float = 0.0, zero_stage: int = 1
) -> TrainJob:
    text = JOB.format(
        name=name,
        low=low,
        high=high,
        root=ROOT,
        steps=steps,
        pause_s=pause_s,
        zero_stage=zero_stage,
        snapshot_every=SNAPSHOT_EVERY,
    )
    (job,) = load_text(text, where=name)
    assert isinstance(job, TrainJob)
    return job


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    pack(ROOT / "orchestrator", name="corpus", home=home)
    return home


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head without room for workers, and one node with room for two."""
    labelled = NodeSize(num_cpus=2, labels={TOPOLOGY_LABEL: "local/rack1"})
    with LocalCluster((NodeSize(num_cpus=0, labels={ZONE_LABEL: "here"}), labelled)) as cluster:
        yield cluster


@dataclass
class Watch:
    """Collects a run's events and does things when their time has come, each once."""

    plan: list[tuple[Callable[[Watch], bool], Callable[[], object]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.plan and self.plan[0][0](self):
            self.plan.pop(0)[1]()

    @property
    def steps(self) -> list[StepDone]:
        return [event for event in self.events if isinstance(event, StepDone)]

    @property
    def attempts(self) -> list[AttemptOpened]:
        return [event for event in self.events if isinstance(event, AttemptOpened)]

    def made(self, steps: int, *, attempt: int = 1) -> bool:
        """Whether this attempt has made so many steps."""
        return sum(step.attempt == attempt for step in self.steps) >= steps


def run(job: TrainJob, home: Path, watch: Watch, **options: object) -> RunResult:
    return run_train_job(job, home, on_event=watch, options=RunOptions(habits=EAGER, **options))  # type: ignore[arg-type]


def losses(watch: Watch) -> dict[int, float]:
    """The loss of every step; of a step that was made again the last one."""
    return {step.step: step.loss for step in watch.steps}


def ledger(watch: Watch) -> dict[int, tuple[int, int]]:
    return {step.step: step.ledger for step in watch.steps}


STEPS = 120


@pytest.fixture(scope="module")
def fixed(cluster: LocalCluster, home: Path) -> tuple[RunResult, Watch]:
    """The run that every other one is compared with: two workers. There is a node with room for a third one by its
    numbers, but somebody else's actor holds it."""
    node = cluster.add_node(NodeSize(num_cpus=1, resources={"theirs": 1}))
    foreign = ray.remote(Foreign).options(num_cpus=1, resources={"theirs": 1}).remote()
    assert ray.get(foreign.ping.remote())
    watch = Watch()
    result = run(make_job("fixed", low=2, high=3, steps=STEPS), home, watch)
    ray.kill(foreign)
    cluster.kill_node(node.node_id)
    return result, watch


class Foreign:
    def ping(self) -> bool:
        return True


def same(watch: Watch, reference: Watch, *, steps: int) -> None:
    """Every step has the loss and the samples of the fixed-size run."""
    wanted, made = losses(reference), losses(watch)
    assert sorted(made) == list(range(1, steps + 1))
    assert made == pytest.approx({step: wanted[step] for step in made}, rel=1e-5)
    assert ledger(watch) == {step: ledger(reference)[step] for step in made}


def test_a_job_runs_to_an_exported_model(fixed: tuple[RunResult, Watch]) -> None:
    result, watch = fixed
    assert result.status is Status.SUCCEEDED, result.detail
    assert [step.step for step in watch.steps] == list(range(1, STEPS + 1))
    assert losses(watch)[STEPS] < losses(watch)[1]
    assert result.checkpoint_step == STEPS
    assert result.model_dir is not None
    model, config = load_model(result.model_dir)
    assert config.task == "tests.cluster.ray_train_task:task"
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    assert result.metrics["bits_per_byte"] > 0


def test_every_held_second_is_booked(fixed: tuple[RunResult, Watch]) -> None:
    record = RunRecord.of("fixed", load_events(fixed[0].run_dir))
    seconds = record.worker_seconds()
    assert seconds["useful"] + sum(seconds["stalled"].values()) == pytest.approx(seconds["held"])
    assert record.status is Status.SUCCEEDED


def test_failure_domains_are_read_from_the_nodes_labels(cluster: LocalCluster) -> None:
    assert {"here", "local/rack1"} <= set(read_domains().values())


def test_room_that_a_foreign_actor_holds_is_left_alone(fixed: tuple[RunResult, Watch]) -> None:
    assert [opened.world_size for opened in fixed[1].attempts] == [2]


def test_growth_notice_and_kills_change_nothing_but_the_size(
    fixed: tuple[RunResult, Watch], cluster: LocalCluster, home: Path
) -> None:
    """2 -> 4 when two nodes come, a rank killed, -> 3 when one node is announced to go, -> 2 when the other is killed
    in the middle of a step and all that was on it is gone."""
    added: list[str] = []

    def add_nodes() -> None:
        added.extend(cluster.add_node(NodeSize(num_cpus=1)).node_id for _ in range(2))

    def kill_a_rank() -> None:
        (rank,) = (p for p in node_processes(cluster.nodes[1].folder) if p.name() == "tide-rank-1")
        os.kill(rank.pid, signal.SIGKILL)

    watch = Watch(
        plan=[
            (lambda w: w.made(1, attempt=1), add_nodes),
            (lambda w: w.made(8, attempt=2), kill_a_rank),
            (lambda w: w.made(8, attempt=3), lambda: cluster.drain_node(added[0], deadline_s=30)),
            (lambda w: w.made(8, attempt=4), lambda: cluster.kill_node(added[1])),
        ]
    )
    result = run(make_job("elastic", low=2, high=4, steps=STEPS, pause_s=0.05, zero_stage=3), home, watch)
    assert result.status is Status.SUCCEEDED, result.detail
    assert [(opened.cause, opened.world_size) for opened in watch.attempts] == [
        (Cause.START, 2),
        (Cause.GROW, 4),
        (Cause.WORKER_FAILURE, 4),
        (Cause.NOTICE, 3),
        (Cause.NODE_LOSS, 2),
    ]
    same(watch, fixed[1], steps=STEPS)
    record = RunRecord.of("elastic", load_events(result.run_dir))
    assert record.to_json()["planned_steps_lost"] == 0
    assert record.lost_steps[Cause.WORKER_FAILURE] <= SNAPSHOT_EVERY + 1
    assert record.lost_steps[Cause.NODE_LOSS] <= SNAPSHOT_EVERY + (record.mirror_lag_steps or 0) + 1
    assert {opened.source for opened in watch.attempts[1:]} == {"keepers"}


def test_interrupt_keeps_the_state_and_the_next_run_goes_on(fixed: tuple[RunResult, Watch], home: Path) -> None:
    stopped, wishes = Watch(), [0]
    stopped.plan = [(lambda w: w.made(7), lambda: wishes.__setitem__(0, 1))]
    job = make_job("paused", steps=30, pause_s=0.05)
    result = run(job, home, stopped, wants_stop=lambda: wishes[0])
    assert result.status is Status.PAUSED
    assert result.checkpoint_step == stopped.steps[-1].step
    again = Watch()
    result = run(job, home, again)
    assert result.status is Status.SUCCEEDED, result.detail
    assert [(opened.cause, opened.source) for opened in again.attempts] == [(Cause.RESUME, "storage")]
    assert again.attempts[0].start_step == stopped.steps[-1].step
    stopped.events.extend(again.events)
    same(stopped, fixed[1], steps=30)
