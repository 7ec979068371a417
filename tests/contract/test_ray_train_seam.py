"""The seam against the installed Ray: every private name it stands on, so that a new version fails here and not in a
run at night."""

from __future__ import annotations

import inspect
import pickle
import sys

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.state import ErroredState, SchedulingState, ShuttingDownState
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from orchestrator.adapters.ray_train import seam_contract
from orchestrator.adapters.ray_train.bench import NoRoom
from orchestrator.adapters.ray_train.exits import AttemptAborted, PlannedRestart, RankFailed
from orchestrator.adapters.ray_train.protocol import Leaving, Left
from orchestrator.adapters.ray_train.public_tier import PublicTrainer
from orchestrator.adapters.ray_train.seam import AskDriver, LeasePolicy, OfferedController, OfferedTrainer, RunEnded
from orchestrator.adapters.ray_train.standing import StandingWorkerGroup
from orchestrator.adapters.ray_train.tier import Tier, trainer_of

CONTROLLER = "ray.train.v2._internal.execution.controller"


def test_the_installed_ray_has_all_that_the_seam_stands_on() -> None:
    assert seam_contract.broken() == ()


@pytest.mark.parametrize(
    ("table", "place", "expected", "sentence"),
    [
        ("SIGNATURES", f"{CONTROLLER}:TrainController._step", ("more",), "takes (), not ('more',)"),
        ("SIGNATURES", f"{CONTROLLER}:TrainController._gone", (), "is gone"),
        ("FIELDS", "ray.gone:Nothing", ("x",), "is gone"),
        ("ATTRIBUTES", f"{CONTROLLER}:TrainController.__init__", ("_gone",), "does not set ['_gone']"),
    ],
)
def test_what_is_missing_is_named_and_the_run_takes_the_public_tier(
    monkeypatch: pytest.MonkeyPatch, table: str, place: str, expected: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setitem(getattr(seam_contract, table), place, expected)
    (missing,) = seam_contract.broken()
    assert sentence in missing
    assert trainer_of(Tier.AUTO) is PublicTrainer
    assert trainer_of(Tier.SEAM) is OfferedTrainer


def test_a_name_that_the_seam_imports_and_ray_has_lost_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ray.train.v2._internal.execution.controller.state.ReschedulingState")
    monkeypatch.delitem(sys.modules, "orchestrator.adapters.ray_train.seam")
    (missing,) = seam_contract.broken()
    assert "ReschedulingState" in missing


def test_a_seam_that_holds_is_taken_unless_the_public_tier_is_asked_for() -> None:
    assert trainer_of(Tier.AUTO) is OfferedTrainer
    assert trainer_of(Tier.PUBLIC) is PublicTrainer


def test_the_loop_asks_step_and_awaits_it() -> None:
    """A step that waits for the hub must be able to yield, or Ctrl-C and aborts starve."""
    assert inspect.iscoroutinefunction(TrainController._step)
    assert inspect.iscoroutinefunction(TrainController._run_control_loop_iteration)
    assert "await self._step()" in inspect.getsource(TrainController._run_control_loop_iteration)


def test_our_classes_leave_nothing_abstract() -> None:
    LeasePolicy(ScalingConfig(num_workers=1))
    AskDriver(FailureConfig())
    assert not inspect.isabstract(StandingWorkerGroup)
    assert issubclass(OfferedController, TrainController)


def test_planned_restarts_are_retried_without_a_count() -> None:
    policy = AskDriver(FailureConfig(max_failures=0))
    left = Left(attempt=1, worker=0, node_id="n", at_s=0.0, how=Leaving.STOPPED, step=7)
    for _ in range(100):
        error = WorkerGroupError("planned", {0: PlannedRestart(left)})
        assert policy.make_decision(error) is FailureDecision.RETRY


def test_a_start_that_failed_is_asked_again_and_a_bug_is_not() -> None:
    policy = AskDriver(FailureConfig())
    assert policy.make_decision(ControllerError(WorkerGroupStartupFailedError("no room"))) is FailureDecision.RETRY
    assert policy.make_decision(ControllerError(KeyError("bug"))) is FailureDecision.RAISE


@pytest.mark.parametrize("kind", [PlannedRestart, RankFailed, AttemptAborted])
def test_exits_survive_pickling(kind: type[PlannedRestart]) -> None:
    left = Left(attempt=3, worker=1, node_id="n", at_s=1.5, how=Leaving.FAILED, kind="killed", detail="rank 1 died")
    again = pickle.loads(pickle.dumps(kind(left)))
    assert type(again) is kind
    assert again.left == left


def test_other_errors_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(RunEnded("why"))).detail == "why"
    assert pickle.loads(pickle.dumps(NoRoom({"n": 2}))).nodes == {"n": 2}


def test_states_carry_what_the_driver_reads() -> None:
    error = WorkerGroupError("x", {})
    assert ShuttingDownState(next_state=ErroredState(training_failed_error=error)).next_state is not None
    assert SchedulingState(ResizeDecision(2, {"CPU": 1.0})).scaling_decision.num_workers == 2
