"""Trials on real Ray whose losses are no numbers, whose metric does not exist, and whose lease shrinks and grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_tune.run import StudyOptions, run_study
from orchestrator.policy.study.values import TrialState
from orchestrator.spec import Study, load_text
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.events import AttemptOver, Began, Close, Ending, Event, Reported
from orchestrator.study.journal import read_journal
from orchestrator.study.record import StudyRecord
from tests.cluster.ray_train_runs import FAST, PACE, ROOT, SLOW, STEADY, set_pace
from tests.cluster.study_driver import STUDY

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    pack(ROOT / "orchestrator", name="corpus", home=folder)
    return folder


@pytest.fixture(scope="module")
def node() -> Iterator[str]:
    with LocalCluster((NodeSize(num_cpus=3),)) as cluster:
        yield cluster.nodes[0].node_id


def _study(**changes: str) -> Study:
    text = STUDY
    for before, after in changes.values():
        assert before in text
        text = text.replace(before, after)
    (found,) = load_text(text)
    assert isinstance(found, Study)
    return found


def _run(study: Study, home: Path, **options: object) -> StudyRecord:
    return run_study(study, home, StudyOptions(evaluation_samples=32, **options))  # type: ignore[arg-type]


@pytest.mark.usefixtures("node")
def test_a_loss_that_is_no_number_fails_its_trial_and_the_others_go_on(home: Path) -> None:
    study = _study(
        name=("name: six", "name: diverges"),
        space=("{type: loguniform, min: 1e-4, max: 1e-1}", "{type: choice, values: [0.01, 1e30, 0.003]}"),
        searcher=("{name: random}", "{name: grid}"),
        scheduler=("{name: asha, grace_steps: 5, reduction_factor: 3}", "{name: none}"),
        steps=("steps: 45", "steps: 10"),
        trials=("trials: 6", "trials: 3"),
    )
    record = _run(study, home)
    by_rate = {trial.config["optimizer.lr"]: trial for trial in record.trials.values()}
    assert record.close_reason is Close.TRIALS
    assert by_rate[1e30].state is TrialState.FAILED
    assert "nan" in by_rate[1e30].detail.lower()
    assert {by_rate[rate].state for rate in (0.01, 0.003)} == {TrialState.FINISHED}


@pytest.mark.usefixtures("node")
def test_a_metric_that_is_never_reported_ends_the_study_at_once_and_names_those_that_are(home: Path) -> None:
    study = _study(name=("name: six", "name: blind"), metric=("metric: bits_per_byte", "metric: accuracy"))
    with pytest.raises(UserError, match="bits_per_byte, loss") as refused:
        _run(study, home)
    assert (refused.value.code, refused.value.where) == (ExitCode.INVALID, "spec.metric")
    record = StudyRecord(read_journal(home / "studies" / "blind"))
    assert record.close_reason is Close.FAILED
    # Nobody trained beyond the first report.
    assert all(trial.step <= 5 for trial in record.trials.values())


class _Lease:
    """One worker; three when the first trial has reported; one when the second has; three again when the first one has
    reported twice more. Trials are slow while a seat warms up, so that they are still there when it is ready, and fast
    when the second has gone on and one of them has become larger."""

    def __init__(self, node: str) -> None:
        self._node, self._may = node, 1
        self.held: list[int] = []
        self.cost_of_paused: list[float] = []
        self._begun_again: list[Began] = []
        set_pace(STEADY)

    def lease(self) -> Mapping[str, int]:
        return {self._node: self._may}

    def holds(self, workers: Mapping[str, int]) -> None:
        self.held.append(sum(workers.values()))

    def watch(self, event: Event, record: StudyRecord) -> None:
        second = record.trials.get("t0002")
        match event:
            case Reported(trial="t0001") if second is None:
                self._grow()
            case Began() if len(self.cost_of_paused) == 2:
                self._begun_again.append(event)
                if any(one.trial == "t0002" for one in self._begun_again):
                    set_pace(FAST if any(one.workers == 2 for one in self._begun_again) else STEADY)
            case Began(trial="t0002"):
                set_pace(STEADY)
            case Reported(trial="t0002") if not self.cost_of_paused:
                self._may = 1
            case Reported(trial="t0001") if second is not None and self._may == 1 and not second.workers:
                self.cost_of_paused.append(second.device_s)
                if len(self.cost_of_paused) == 2:
                    self._grow()

    def _grow(self) -> None:
        self._may = 3
        set_pace(SLOW)


def test_a_lease_that_shrinks_pauses_a_trial_for_nothing_and_one_that_grows_disturbs_nobody(
    home: Path, node: str
) -> None:
    study = _study(
        name=("name: six", "name: breathes"),
        task=("task: jobs.models.gpt:task", "task: tests.cluster.ray_train_task:task"),
        args=("{layers: 1, d_model: 32, heads: 1, seq_len: 32}", f"{{pace_file: {PACE}}}"),
        scheduler=("{name: asha, grace_steps: 5, reduction_factor: 3}", "{name: none}"),
        batch=("global_batch_size: 96", "global_batch_size: 24"),
        steps=("steps: 45", "steps: 80"),
        trials=("trials: 6", "trials: 2"),
    )
    lease = _Lease(node)
    record = _run(study, home, allotment=lease, on_event=lease.watch)
    events = read_journal(home / "studies" / "breathes")
    begun = [(event.trial, event.workers) for event in events if isinstance(event, Began)]
    endings = [(event.trial, event.why) for event in events if isinstance(event, AttemptOver)]
    assert [trial.state for trial in record.trials.values()] == [TrialState.FINISHED] * 2
    # The second began on what came, gave way, and went on when more came again; of what was left then, one was made
    # larger. Nobody was disturbed for it but who grew.
    assert begun[:2] == [("t0001", 1), ("t0002", 1)]
    assert "t0002" in [trial for trial, _ in begun[2:]]
    assert 2 in [workers for _, workers in begun[2:]]
    assert [trial for trial, why in endings if why is Ending.PREEMPTED] == ["t0002"]
    assert {why for trial, why in endings if trial == "t0001"} <= {Ending.LEFT, Ending.RESIZED}
    assert max(lease.held) == 3
    # From one report of the other to the next, who was paused had cost nothing.
    assert len(lease.cost_of_paused) == 2
    assert lease.cost_of_paused[0] == lease.cost_of_paused[1]
    # Stopped in order: no step was lost, and every report is there once.
    assert all(trial.lost_steps == 0 for trial in record.trials.values())
    assert all([one.step for one in trial.measures] == list(range(8, 81, 8)) for trial in record.trials.values())
