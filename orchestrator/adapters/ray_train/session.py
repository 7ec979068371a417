"""One session of a run on Ray: the actors it starts, the wiring between them, and the loop that feeds the driver."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import structlog
from ray.train import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.adapters.ray_train import capacity, train_fn
from orchestrator.adapters.ray_train.domains import read_domains
from orchestrator.adapters.ray_train.driver import Driver
from orchestrator.adapters.ray_train.driver_ports import DriverConfig, Surroundings
from orchestrator.adapters.ray_train.events import Cause, Event, Status
from orchestrator.adapters.ray_train.fitting import Fitting, keeper_room
from orchestrator.adapters.ray_train.fleet import Fleet
from orchestrator.adapters.ray_train.governor import Bounds, Governor, Habits
from orchestrator.adapters.ray_train.hub import MAX_CONCURRENCY, Hub
from orchestrator.adapters.ray_train.inside import Inside
from orchestrator.adapters.ray_train.keeper_host import KeeperFacts
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from orchestrator.adapters.ray_train.names import NAMESPACE, hub_name, short_id
from orchestrator.adapters.ray_train.node_agent import AgentConfig
from orchestrator.adapters.ray_train.notice_desk import NoticePlan
from orchestrator.adapters.ray_train.prepare import Prepared
from orchestrator.adapters.ray_train.protocol import AttemptPlan, Item, Order, RunOver
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.adapters.ray_train.retries import RetryBudget
from orchestrator.adapters.ray_train.run_state import RunState
from orchestrator.adapters.ray_train.stack_files import StackFiles
from orchestrator.adapters.ray_train.tier import Tier, trainer_of
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.spec import TrainJob

log = structlog.get_logger(__name__)

TICK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """How one session runs a job; see `run.RunOptions`."""

    ranks_per_worker: int
    fork: bool
    keep: bool
    habits: Habits
    wants_stop: Callable[[], int]
    notices: NoticePlan
    tier: Tier
    read_lease: Callable[[], Lease] | None = None
    on_inside: Callable[[Inside | None], None] = lambda inside: None


class HubHandle:
    """The hub's actor as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def offer(self, offer: AttemptPlan | RunOver) -> None:
        """Say what comes next."""
        self.actor.offer.remote(offer)

    def order(self, order: Order) -> None:
        """Give an order to all workers."""
        self.actor.order.remote(order)

    def items(self, wait_s: float) -> Any:
        """A reference to what has happened since."""
        return self.actor.items.remote(wait_s)


class ControllerWarming:
    """The driver's `Warming`: the controller starts workers beside the running group."""

    def __init__(self, patience_s: float) -> None:
        self.controller: Any = None
        self._patience_s = patience_s
        self._ref: Any = None

    def begin(self, nodes: tuple[str, ...], ranks_per_worker: int) -> None:
        """Start what is missing for these workers."""
        self._ref = self.controller.warm.remote(nodes, ranks_per_worker, self._patience_s)

    def outcome(self) -> bool | None:
        """Whether they came up; None while that is open. Never blocks."""
        done, _ = ray.wait([self._ref], timeout=0)
        if not done:
            return None
        try:
            return bool(ray.get(self._ref))
        except ray.exceptions.RayError:
            return False


class Session:
    """Use as a context manager; leaving it ends every actor it started."""

    def __init__(self, job: TrainJob, prepared: Prepared, run_dir: Path, config: SessionConfig) -> None:
        self._job = job
        self._prepared = prepared
        self._run_dir = run_dir
        self._config = config
        self._id = f"{short_id(job.metadata.name)}-{secrets.token_hex(3)}"
        self._log_dir = run_dir / "logs"
        self._stacks = StackFiles(run_dir / "stacks")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Session:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        actor = ray.remote(Hub).options(
            name=hub_name(self._id),
            namespace=NAMESPACE,
            num_cpus=0,
            max_concurrency=MAX_CONCURRENCY,
            # Beside the driver: it must live exactly as long, and other nodes come and go.
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        self._hub = HubHandle(actor.remote())
        self._stack.callback(_kill, self._hub.actor)
        checkpoint = self._job.spec.checkpoint
        self._fleet = Fleet(self._agent_config(), run=self._prepared.job.run_id, mirrors=checkpoint.mirrors)
        self._stack.callback(self._fleet.close)
        self._warming = ControllerWarming(self._config.habits.warm_s)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, record: RunRecord, emit: Callable[[Event], None]) -> tuple[Status, str]:
        """Train until the run is over; how it ended. Raises: RayError when Ray itself is lost."""
        driver = self._driver(record, emit)
        self._config.on_inside(Inside(self._id, lambda: driver.running, self._stacks))
        self._stack.callback(self._config.on_inside, None)
        trainer = trainer_of(self._config.tier)(
            train_fn.train,
            config={
                "session": self._id,
                "log_dir": str(self._log_dir),
                "cwd": self._prepared.cwd,
                "environment": self._prepared.environment,
            },
            hub=self._hub.actor,
            resources_per_rank=self._job.spec.workers.resources.as_ray(),
            storage=str(self._run_dir / "ray"),
            name=self._id,
            drive=lambda controller, running: self._drive(driver, controller, running),
        )
        self._stack.callback(shutil.rmtree, self._run_dir / "ray", ignore_errors=True)
        try:
            trainer.fit()
        except TrainingFailedError as error:
            if not driver.detail:
                raise
            log.info("Ray Train ended the run", detail=str(error))
        return driver.status, driver.detail

    def _drive(self, driver: Driver, controller: Any, running: Any) -> None:
        """Feed the driver until the controller has ended, whatever the outcome."""
        self._warming.controller = controller
        self._stack.callback(_kill, controller)
        mail = self._hub.items(TICK_S)
        while True:
            done, _ = ray.wait([running, mail], num_returns=1, timeout=2 * TICK_S)
            if mail in done:
                driver.read(_items(mail))
                mail = self._hub.items(TICK_S)
            if running in done:
                driver.read(_items(mail))
                # An answer holds what had come when it was given; the last words may have come since.
                while items := _items(self._hub.items(0.0)):
                    driver.read(items)
                driver.finish(_error(running))
                return
            driver.tick()

    def _driver(self, record: RunRecord, emit: Callable[[Event], None]) -> Driver:
        spec, config = self._job.spec, self._config
        bounds = Bounds(
            min_workers=spec.workers.min,
            max_workers=spec.workers.max,
            per_rank=spec.workers.resources.as_ray(),
            ranks_per_worker=config.ranks_per_worker,
            batch=BatchPlan(spec.batch.global_batch_size, spec.batch.micro_batch_size),
        )
        state = RunState(
            self._prepared.job.run_id,
            self._fleet,
            storage_url=self._prepared.storage_url,
            every_s=spec.checkpoint.every,
            keep=spec.checkpoint.keep,
            require_room=self._require_room,
        )
        around = Surroundings(
            hub=self._hub,
            sizing=Governor(
                bounds, config.habits, config.read_lease or FileLease(self._run_dir).read, capacity.read_nodes
            ),
            agents=self._fleet,
            state=state,
            warming=self._warming,
            stacks=self._stacks,
        )
        attempts = record.attempts
        driver_config = DriverConfig(
            job=self._prepared.job,
            ranks_per_worker=config.ranks_per_worker,
            first_attempt=attempts[-1].attempt + 1 if attempts else 1,
            first_cause=Cause.RESUME if attempts else Cause.START,
            budget=RetryBudget(failures=spec.retries.failures, preemptions=spec.retries.preemptions),
        )
        return Driver(
            driver_config, around, emit=emit, wants_stop=config.wants_stop, metrics=self._prepared.task.metrics
        )

    def _require_room(self, world_size: int, keepers: Mapping[str, KeeperFacts]) -> None:
        """Raises: UserError if the keepers cannot hold a group of this size."""
        spec, state_bytes = self._job.spec, self._prepared.state_bytes
        if state_bytes is None or not keepers:
            return
        ranks = capacity.room(
            tuple(replace(node, free=node.total) for node in capacity.read_nodes()),
            spec.workers.resources.as_ray(),
            {},
            self._config.ranks_per_worker,
        )
        fitting = Fitting(
            state_bytes=state_bytes,
            min_workers=spec.workers.min,
            mirrors=spec.checkpoint.mirrors,
            domains=read_domains(),
        )
        fitting.require(world_size, [keeper_room(node, facts, ranks.get(node, 0)) for node, facts in keepers.items()])

    def _agent_config(self) -> AgentConfig:
        return AgentConfig(
            session=self._id,
            log_dir=str(self._log_dir),
            fork=self._config.fork,
            keep=self._config.keep,
            keeper_token=secrets.token_bytes(32),
            keeper_limit_bytes=self._job.spec.checkpoint.keeper_memory,
            preload=self._prepared.preload,
            dataset_dir=str(self._prepared.dataset_dir),
            folders=(*self._prepared.job.code_paths, str(self._log_dir)),
            environment=self._prepared.environment,
            secrets=self._prepared.secrets,
            notices=self._config.notices,
        )


def _items(mail: Any) -> list[Item]:
    items: list[Item] = ray.get(mail)
    return items


def _error(running: Any) -> str:
    try:
        ray.get(running)
    except ray.exceptions.RayError as error:
        return f"Ray Train's controller ended: {error}"
    return ""


def _kill(actor: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)
