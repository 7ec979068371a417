"""The seam against the installed Ray: every private name it stands on, so that a new version fails here and not in a
run at night."""

from __future__ import annotations

import dataclasses
import inspect
import pickle

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.controller import TrainControllerLoopIterationResult
from ray.train.v2._internal.execution.controller.state import ErroredState, SchedulingState, ShuttingDownState
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision, ScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState
from ray.train.v2._internal.execution.worker_group.thread_runner import ThreadRunner
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker, Worker
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from orchestrator.adapters.ray_train.bench import NoRoom
from orchestrator.adapters.ray_train.exits import AttemptAborted, PlannedRestart, RankFailed
from orchestrator.adapters.ray_train.protocol import Leaving, Left
from orchestrator.adapters.ray_train.seam import AskDriver, LeasePolicy, OfferedController, RunEnded
from orchestrator.adapters.ray_train.standing import StandingWorkerGroup


def parameters(function: object) -> list[str]:
    # Ray adds the last one to methods of a class that some process has made an actor of.
    added = ("self", "_ray_trace_ctx")
    return [name for name in inspect.signature(function).parameters if name not in added]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            TrainController.__init__,
            ["train_fn_ref", "train_run_context", "scaling_policy", "failure_policy", "callbacks", "validation_config"],
        ),
        (TrainController._step, []),
        (TrainController._poll_workers, []),
        (TrainController._shutdown_worker_group, []),
        (DataParallelTrainer._initialize_and_run_controller, ["controller_init_kwargs"]),
        (DataParallelTrainer._create_default_callbacks, []),
        (WorkerGroup.__init__, ["train_run_context", "worker_group_context", "callbacks"]),
        (WorkerGroup._init_train_context, ["workers", "sync_actor"]),
        (WorkerGroup._clear_state, []),
        (WorkerGroup._get_worker_runtime_env, ["custom_runtime_env"]),
        (RayTrainWorker.execute, ["fn", "fn_args", "fn_kwargs"]),
        (RayTrainWorker.run_train_fn, ["train_fn_ref"]),
        (RayTrainWorker.get_metadata, []),
        (ThreadRunner.is_running, []),
        (ScalingPolicy.after_controller_start, ["train_run_context"]),
        (ScalingPolicy.before_controller_abort, []),
    ],
)
def test_signatures_are_those_the_seam_was_written_against(function: object, expected: list[str]) -> None:
    assert parameters(function) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (WorkerGroupState, ["start_time", "placement_group_handle", "workers", "sync_actor"]),
        (ResizeDecision, ["num_workers", "resources_per_worker"]),
        (TrainControllerLoopIterationResult, ["run_attempt_id", "previous_state", "next_state"]),
        (WorkerGroupContext, ["run_attempt_id", "train_fn_ref", "num_workers", "resources_per_worker"]),
        (Worker, ["actor", "metadata", "resources"]),
    ],
)
def test_values_have_the_fields_that_are_filled(kind: type, expected: list[str]) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    assert names[: len(expected)] == expected


def test_the_loop_asks_step_and_awaits_it() -> None:
    """A step that waits for the hub must be able to yield, or Ctrl-C and aborts starve."""
    assert inspect.iscoroutinefunction(TrainController._step)
    assert inspect.iscoroutinefunction(TrainController._run_control_loop_iteration)
    assert "await self._step()" in inspect.getsource(TrainController._run_control_loop_iteration)


def test_attributes_that_are_set_by_ray_exist() -> None:
    source = inspect.getsource(TrainController.__init__)
    for name in ("_worker_group", "_run_config", "_worker_group_callbacks_to_propagate", "_latest_poll_time"):
        assert f"self.{name}" in source, name
    assert "self._worker_group_state" in inspect.getsource(WorkerGroup.__init__)


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
