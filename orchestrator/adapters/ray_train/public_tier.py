"""The same run through nothing but Ray Train's public interface, for a Ray in which the private seam does not hold.

Every attempt is one `DataParallelTrainer.fit()` of the size and on the nodes that the driver decided. Supervisors, fork
servers, keepers and the driver are the same; what is worse stands in `WHAT_IS_WORSE`. Why not Ray Train's own elastic
range and `FailureConfig`: docs/decisions/0005-public-tier.md.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.adapters.ray_train import capacity
from orchestrator.adapters.ray_train.exits import WorkerExit
from orchestrator.adapters.ray_train.mail import Outbox
from orchestrator.adapters.ray_train.protocol import AttemptPlan, GroupIdle, GroupPlaced, GroupStarting, Held, RunOver

log = structlog.get_logger(__name__)

WHAT_IS_WORSE = (
    "every resize starts new worker processes (some seconds, about three CPU-seconds each), a worker that dies "
    "silently is noticed up to two seconds later, and between two attempts somebody else may take the room"
)
NODE_ID_LABEL = "ray.io/node-id"
ASK_S = 10.0
# Reserving room that is free takes milliseconds; room that somebody else holds is not waited for.
ROOM_S = 10.0
# Until the cluster's view shows what an ended group has released.
RELEASE_S = 3.0
ENVIRONMENT = {
    # Drains reach the driver directly; Ray Train's watcher would add a barrier and a restart of its own.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ranks run in folders of their own; the worker's stays where its code is.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicConfig:
    """What every attempt's trainer is given."""

    train_fn: Callable[[dict[str, Any]], dict[str, Any]]
    config: dict[str, Any]
    resources_per_rank: dict[str, float]
    storage: str
    name: str

    def resources(self, ranks_per_worker: int) -> dict[str, float]:
        """What one worker holds."""
        return {name: amount * ranks_per_worker for name, amount in self.resources_per_rank.items()}


class PublicController:
    """An actor that plays the part of Ray Train's controller: it takes the hub's offers until the run is over."""

    def __init__(self, hub: Any, config: PublicConfig) -> None:
        self._hub = hub
        self._outbox = Outbox(hub)
        self._config = config
        self._held: dict[str, int] = {}

    def run(self) -> None:
        """Raises: whatever is no failure of training itself."""
        idle: GroupIdle | None = GroupIdle(at_s=time.time())
        while True:
            offer: AttemptPlan | RunOver | None = ray.get(self._hub.take.remote(idle, ASK_S, self._outbox.sent))
            idle = None
            match offer:
                case RunOver():
                    return
                case AttemptPlan():
                    idle = self._attempt(offer)
                    if idle is None:
                        return
                case None:
                    pass

    def warm(self, nodes: tuple[str, ...], ranks_per_worker: int, timeout_s: float) -> bool:
        """Whether there really is room beside the running group: it is reserved for a moment. Starts nothing."""
        wanted = Counter(nodes)
        wanted.subtract(self._held)
        missing = [node for node, count in sorted(wanted.items()) for _ in range(max(0, count))]
        return _can_reserve(missing, self._config.resources(ranks_per_worker), min(timeout_s, ROOM_S))

    def _attempt(self, plan: AttemptPlan) -> GroupIdle | None:
        """One trainer from start to end; None when the job is finished."""
        resources = self._config.resources(plan.ranks_per_worker)
        self._outbox.send([GroupStarting(at_s=time.time(), attempt=plan.attempt)])
        free = _free()
        if not _can_reserve(list(plan.nodes), resources, ROOM_S):
            return GroupIdle(at_s=time.time(), error="NoRoom", detail="the room was taken before the workers came")
        self._outbox.send([GroupPlaced(at_s=time.time(), attempt=plan.attempt)])
        self._hold(Counter(plan.nodes))
        try:
            self._trainer(plan, resources).fit()
        except TrainingFailedError as error:
            return self._idle(error, plan)
        finally:
            _wait_for_release(free, plan.nodes, resources)
            self._hold({})
        return None

    def _trainer(self, plan: AttemptPlan, resources: dict[str, float]) -> Any:
        return DataParallelTrainer(
            self._config.train_fn,
            train_loop_config=self._config.config,
            scaling_config=ScalingConfig(
                num_workers=plan.num_workers,
                resources_per_worker=resources,
                label_selector=[{NODE_ID_LABEL: node} for node in plan.nodes],
            ),
            run_config=RunConfig(
                name=f"{self._config.name}-{plan.attempt}",
                storage_path=self._config.storage,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )

    def _hold(self, held: Mapping[str, int]) -> None:
        self._held = dict(held)
        self._outbox.send([Held(at_s=time.time(), workers=self._held)])

    def _idle(self, error: TrainingFailedError, plan: AttemptPlan) -> GroupIdle:
        failures = getattr(error, "worker_failures", {})
        strange = {rank: failure for rank, failure in failures.items() if not isinstance(failure, WorkerExit)}
        sentences = [f"worker {rank}: {failure}" for rank, failure in sorted(strange.items())]
        if not failures:
            sentences = [str(error)]
        return GroupIdle(
            at_s=time.time(),
            error=type(error).__name__,
            detail=(sentences[0] if sentences else "").strip()[:2000],
            # Whose node the dead worker's was, Ray Train does not say: the driver asks every node's agent.
            silent_nodes=tuple(sorted(set(plan.nodes))) if strange else (),
        )


class PublicTrainer:
    """The same shape as `seam.OfferedTrainer`."""

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
        self._hub = hub
        self._drive = drive
        self._config = PublicConfig(
            train_fn=train_fn, config=config, resources_per_rank=resources_per_rank, storage=storage, name=name
        )

    def fit(self) -> None:
        """Run until the run is over; `drive` has been told how."""
        log.warning("training through Ray Train's public interface only", worse=WHAT_IS_WORSE)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(PublicController).options(
            num_cpus=0, max_concurrency=4, scheduling_strategy=here, runtime_env={"env_vars": ENVIRONMENT}
        )
        controller = actor.remote(self._hub, self._config)
        self._drive(controller, controller.run.remote())


def _can_reserve(nodes: list[str], resources: Mapping[str, float], timeout_s: float) -> bool:
    """Whether workers for all these nodes have room at once."""
    if not nodes:
        return True
    group = placement_group(
        [dict(resources) for _ in nodes], bundle_label_selector=[{NODE_ID_LABEL: node} for node in nodes]
    )
    try:
        return bool(group.wait(timeout_s))
    finally:
        remove_placement_group(group)


def _free() -> dict[str, Mapping[str, float]]:
    return {node.node_id: node.free for node in capacity.read_nodes()}


def _wait_for_release(before: Mapping[str, Mapping[str, float]], nodes: tuple[str, ...], names: Iterable[str]) -> None:
    """Until what the group held of these resources shows as free again, or for a moment: others may have taken it."""
    deadline_s = time.monotonic() + RELEASE_S
    while time.monotonic() < deadline_s:
        free = _free()
        if all(
            free[node].get(name, 0.0) >= before.get(node, {}).get(name, 0.0)
            for node in set(nodes) & set(free)
            for name in names
        ):
            return
        time.sleep(0.05)
