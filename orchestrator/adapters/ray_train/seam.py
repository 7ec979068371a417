"""The one place that touches Ray Train's private controller: an offered world size replaces its own policies.

Ray Train 2.60 decides by itself when to resize, and in ways that lose work (it counts totals, kills first, spins while
waiting). Here it decides nothing: whenever it has no running group it asks the run's hub, and whatever ends a group is
reported there. What it keeps: starting groups, health checks, collecting results. A contract test
(`tests/contract/test_ray_train_seam.py`) holds every name used here against the installed Ray.

Ray's classes are untyped to our type checker, hence the ignored complaints about subclassing them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.controller import TrainControllerLoopIterationResult
from ray.train.v2._internal.execution.controller.state import (
    ErroredState,
    FinishedState,
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
    SchedulingState,
    ShuttingDownState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupContext, WorkerGroupPollStatus
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.result import Result

from orchestrator.adapters.ray_train import capacity
from orchestrator.adapters.ray_train.bench import Bench, NoRoom
from orchestrator.adapters.ray_train.exits import WorkerExit
from orchestrator.adapters.ray_train.liveness import is_gone, raylet_addresses
from orchestrator.adapters.ray_train.mail import Outbox
from orchestrator.adapters.ray_train.protocol import AttemptPlan, GroupIdle, GroupPlaced, GroupStarting, Held, RunOver
from orchestrator.adapters.ray_train.standing import StandingWorkerGroup

ASK_S = 10.0
# Between two health checks of all workers. News travels through the hub at once; this only finds silent deaths.
HEALTH_CHECK_S = 2.0
# How long a worker's thread takes from its last word to the hub until Ray Train sees that it has ended.
SETTLE_S = 0.02
# How long the cluster's view of free resources may lag behind a worker's death.
RELEASE_S = 0.5
# Room that the driver has just seen free is taken in milliseconds, a worker's process is up in seconds.
PLACEMENT_S = 60.0


class RunEnded(TrainingFailedError):  # type: ignore[misc]  # noqa: N818 - an end, of any kind
    """The driver gave the run up; `detail` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return (RunEnded, (self.detail,))


class LeasePolicy(ScalingPolicy):  # type: ignore[misc]
    """Never decides: the controller below asks the hub. Registers nothing with Ray's autoscaling coordinator, because
    the lease is the only writer of capacity."""

    def make_decision_for_non_running_worker_group(self) -> NoopDecision:
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> NoopDecision:
        return NoopDecision()

    def _get_num_workers_for_resource_request(self) -> int:
        return 0

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing to request."""

    async def before_controller_shutdown(self) -> None:
        """Nothing to cancel."""

    def before_controller_abort(self) -> None:
        """Nothing to cancel."""


class AskDriver(FailurePolicy):  # type: ignore[misc]
    """Always tries again: whether there is another attempt, and what is charged for it, the driver decides when the
    controller asks. Only an error of the controller itself, which would repeat, ends the run."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

        if isinstance(training_failed_error, ControllerError):
            startup = (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError, ray.exceptions.RayError)
            if not isinstance(training_failed_error.controller_failure, startup):
                return FailureDecision.RAISE
        return FailureDecision.RETRY


class OfferedController(TrainController):  # type: ignore[misc]
    """Ray Train's controller, which starts what the hub offers and hears at once when a worker leaves."""

    def __init__(self, *, hub: Any, **kwargs: Any) -> None:
        self._hub = hub
        self._outbox = Outbox(hub)
        self._reported: TrainControllerState | None = None
        self._plan: AttemptPlan | None = None
        super().__init__(**kwargs)
        runtime_env = WorkerGroup._get_worker_runtime_env(self._run_config.worker_runtime_env)
        self._bench = Bench(runtime_env, self._train_fn_ref, self._tell_held)

    async def warm(self, nodes: tuple[str, ...], ranks_per_worker: int, timeout_s: float) -> bool:
        """Start workers for a larger group while the present one trains; whether all of them came up."""
        wanted = {node: nodes.count(node) for node in nodes}
        try:
            await self._bench.add(wanted, self._resources(ranks_per_worker), timeout_s)
        except NoRoom:
            return False
        return True

    async def _step(self) -> TrainControllerLoopIterationResult:
        state = self.get_state()
        match state:
            case InitializingState() | RestartingState() | ReschedulingState():
                return self._to(await self._ask(state))
            case SchedulingState():
                await self._start_group()
                return self._to(RunningState())
            case ShuttingDownState():
                result = await super()._step()
                self._bench.clear()
                return result
            case _:
                return await super()._step()

    async def _ask(self, state: TrainControllerState) -> TrainControllerState:
        """The next state by the hub's offer; the same one when there is none yet. Awaiting keeps aborts possible."""
        idle = None
        if self._reported is not state:
            self._reported = state
            idle = await self._end_group(getattr(state, "training_failed_error", None))
        offer: AttemptPlan | RunOver | None = await self._hub.take.remote(idle, ASK_S, self._outbox.sent)
        match offer:
            case None:
                self._bench.clear()  # waiting for long: whoever else needs the room may have it
                return state
            case RunOver(error=""):
                return ShuttingDownState(next_state=FinishedState())
            case RunOver():
                return ShuttingDownState(next_state=ErroredState(training_failed_error=RunEnded(offer.error)))
            case AttemptPlan():
                self._plan = offer
                return SchedulingState(ResizeDecision(offer.num_workers, self._resources(offer.ranks_per_worker)))

    async def _end_group(self, error: TrainingFailedError | None) -> GroupIdle:
        """End the last group and look which of its workers are still there."""
        if self._worker_group is not None:
            self._shutdown_worker_group()
        silent = await self._bench.dismiss_unfit()
        if silent:
            await self._see_release(silent)
        return GroupIdle(
            at_s=time.time(),
            error=type(error).__name__ if error else "",
            detail=_sentence(error),
            silent_nodes=tuple(sorted(silent)),
        )

    async def _see_release(self, nodes: set[str]) -> None:
        """Until the cluster's view shows what dead workers held as free, or for a moment: others may have taken it, and
        the driver must neither count on it nor do without it. Of nodes that are gone nobody counts on anything."""
        assert self._plan is not None
        addresses = await asyncio.to_thread(raylet_addresses)
        nodes = {node for node in nodes if not await asyncio.to_thread(is_gone, node, addresses)}
        per_rank = self._resources(1)
        deadline_s = time.monotonic() + RELEASE_S
        while time.monotonic() < deadline_s:
            seen = await asyncio.to_thread(capacity.read_nodes)
            asked = [node for node in seen if node.node_id in nodes]
            if len(capacity.room(tuple(asked), per_rank, {}, self._plan.ranks_per_worker)) == len(asked):
                return
            await asyncio.sleep(0.05)

    async def _start_group(self) -> None:
        plan = self._plan
        assert plan is not None
        resources = self._resources(plan.ranks_per_worker)
        self._outbox.send([GroupStarting(at_s=time.time(), attempt=plan.attempt)])
        workers = await self._bench.seat(plan.nodes, resources, PLACEMENT_S)
        self._outbox.send([GroupPlaced(at_s=time.time(), attempt=plan.attempt)])
        context = WorkerGroupContext(
            run_attempt_id=self._get_run_attempt_id(),
            train_fn_ref=self._train_fn_ref,
            num_workers=plan.num_workers,
            resources_per_worker=resources,
        )
        group = StandingWorkerGroup(self._train_run_context, context, self._worker_group_callbacks_to_propagate)
        group.begin(workers)
        self._worker_group = group

    def _resources(self, ranks_per_worker: int) -> dict[str, float]:
        per_rank = self._scaling_policy.scaling_config._resources_per_worker_not_none
        return {name: amount * ranks_per_worker for name, amount in per_rank.items()}

    def _tell_held(self, held: dict[str, int]) -> None:
        self._outbox.send([Held(at_s=time.time(), workers=held)])

    async def _poll_workers(self) -> WorkerGroupPollStatus:
        """Wait until the attempt is over or the next health check is due, then look at every worker once."""
        assert self._plan is not None
        if await self._hub.over.remote(self._plan.attempt, HEALTH_CHECK_S):
            await asyncio.sleep(SETTLE_S)
        self._latest_poll_time = float("-inf")
        return await super()._poll_workers()

    def _to(self, next_state: TrainControllerState) -> TrainControllerLoopIterationResult:
        return TrainControllerLoopIterationResult(
            run_attempt_id=self._get_run_attempt_id(), previous_state=self.get_state(), next_state=next_state
        )


def _is_exit(failure: BaseException) -> bool:
    return isinstance(failure, WorkerExit)


def _sentence(error: TrainingFailedError | None) -> str:
    """The sentence a person gets: the failures that no supervisor reported itself, else the error's own."""
    if error is None:
        return ""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    unreported = [f"worker {rank}: {failure}" for rank, failure in sorted(failures.items()) if not _is_exit(failure)]
    return (unreported[0] if unreported else str(error)).strip()[:2000]


class OfferedTrainer(DataParallelTrainer):  # type: ignore[misc]
    """A Ray Train trainer whose world size comes from a hub. `drive(controller, running)` is called in this process
    and returns when `running` has; it is the driver's loop."""

    def __init__(
        self,
        train_fn: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        config: dict[str, Any],
        hub: Any,
        resources_per_rank: dict[str, float],
        storage: str,
        name: str,
        drive: Callable[[Any, Any], None],
    ) -> None:
        super().__init__(
            train_fn,
            train_loop_config=config,
            # The number is never used: the hub's offers are.
            scaling_config=ScalingConfig(
                num_workers=1, use_gpu=resources_per_rank.get("GPU", 0) > 0, resources_per_worker=resources_per_rank
            ),
            run_config=RunConfig(name=name, storage_path=storage, failure_config=FailureConfig(max_failures=-1)),
        )
        self._hub = hub
        self._drive = drive

    def _create_default_callbacks(self) -> list[Any]:
        """None of Ray Train's own: its supervisors need no devices set up, no data shards, no metrics server, and the
        driver removes what the run leaves behind."""
        return []

    def _initialize_and_run_controller(self, **kwargs: Any) -> Result:
        kwargs["scaling_policy"] = LeasePolicy(self.scaling_config)
        kwargs["failure_policy"] = AskDriver(self.run_config.failure_config)
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        environment = {
            "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(HEALTH_CHECK_S),
            # Drains reach the driver directly; Ray Train's watcher would add a barrier and a restart of its own.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        }
        actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": environment})(OfferedController)
        controller = actor.remote(hub=self._hub, **kwargs)
        self._drive(controller, controller.run.remote())
        return ray.get(controller.get_result.remote())
