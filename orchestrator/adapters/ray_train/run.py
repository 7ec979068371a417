"""One training job on the Ray cluster this process is connected to, from its spec to an exported model."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import structlog

from jobs.train.config import RestoreFrom
from jobs.train.state.checkpoints import latest
from jobs.train.state.open_storage import open_storage
from orchestrator.adapters.ray_train import capacity, train_fn
from orchestrator.adapters.ray_train.driver import Driver, DriverConfig, HubHandle
from orchestrator.adapters.ray_train.events import Cause, Event, Status
from orchestrator.adapters.ray_train.hub import MAX_CONCURRENCY, Hub
from orchestrator.adapters.ray_train.lease import FileLease
from orchestrator.adapters.ray_train.metrics import RunMetrics
from orchestrator.adapters.ray_train.names import NAMESPACE, hub_name, short_id
from orchestrator.adapters.ray_train.node_agent import AgentConfig, start_agent
from orchestrator.adapters.ray_train.prepare import Prepared, prepare
from orchestrator.adapters.ray_train.record_store import RecordStore
from orchestrator.adapters.ray_train.retries import RetryBudget
from orchestrator.adapters.ray_train.seam import OfferedTrainer, RunEnded
from orchestrator.adapters.ray_train.sizes import Bounds, LeaseSizes
from orchestrator.spec import TrainJob

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How this process runs a job. `fork` False starts every rank by a new interpreter; `wants_stop` is asked a few
    times a second: 1 = stop in order, 2 = at once."""

    ranks_per_worker: int = 1
    fork: bool = True
    wants_stop: Callable[[], int] = lambda: 0
    metrics_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended. `model_dir` is a plain model directory when it succeeded; `detail` says what failed."""

    run_id: str
    status: Status
    detail: str
    steps: int
    loss: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    model_dir: Path | None = None
    run_dir: Path
    dataset_hash: str


def run_train_job(
    job: TrainJob, home: Path, *, on_event: Callable[[Event], None] = lambda event: None, options: RunOptions
) -> RunResult:
    """Run `job` until it has finished, failed or been stopped; a run of the same name is continued.

    Ray must be initialised. Raises: UserError for what is wrong with the job before it starts; a failure of the run
    itself is a result.
    """
    name = job.metadata.name
    run_dir = home / "runs" / name
    prepared = prepare(job, home, run_id=name)
    with contextlib.ExitStack() as stack:
        store = RecordStore(run_dir, name)
        stack.callback(store.close)
        metrics = RunMetrics(name)
        port, close_metrics = metrics.serve(options.metrics_port)
        stack.callback(close_metrics)
        log.info("run metrics", url=f"http://127.0.0.1:{port}/metrics", job=name)

        def emit(event: Event) -> None:
            store.append(event)
            metrics.observe(event, store.record)
            on_event(event)

        session = _Session(job, prepared, run_dir, options, stack)
        status, detail = session.run(store, emit)
    return _result(job, prepared, store, run_dir, status, detail)


class _Session:
    """The actors of one call of `run_train_job`, and the wiring between them."""

    def __init__(
        self, job: TrainJob, prepared: Prepared, run_dir: Path, options: RunOptions, stack: contextlib.ExitStack
    ) -> None:
        self._job = job
        self._prepared = prepared
        self._run_dir = run_dir
        self._options = options
        self._stack = stack
        self._id = f"{short_id(job.metadata.name)}-{secrets.token_hex(3)}"
        self._log_dir = run_dir / "logs"
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._agents: dict[str, Any] = {}

    def run(self, store: RecordStore, emit: Callable[[Event], None]) -> tuple[Status, str]:
        """Start hub and agents, run the trainer, end what was started."""
        hub = (
            ray.remote(Hub)
            .options(name=hub_name(self._id), namespace=NAMESPACE, num_cpus=0, max_concurrency=MAX_CONCURRENCY)
            .remote()
        )
        self._stack.callback(_kill, hub)
        self._stack.callback(self._close_agents)
        for node in capacity.read_nodes():
            self._start_agent(node.node_id)
        driver = self._driver(HubHandle(hub), store, emit)
        trainer = OfferedTrainer(
            train_fn.train,
            config={
                "session": self._id,
                "log_dir": str(self._log_dir),
                "cwd": self._prepared.cwd,
                "environment": self._prepared.environment,
            },
            hub=hub,
            resources_per_rank=self._job.spec.workers.resources.as_ray(),
            storage=str(self._run_dir / "ray"),
            name=self._id,
            drive=driver.drive,
        )
        self._stack.callback(shutil.rmtree, self._run_dir / "ray", ignore_errors=True)
        with contextlib.suppress(RunEnded):
            trainer.fit()
        return driver.status, driver.detail

    def _driver(self, hub: HubHandle, store: RecordStore, emit: Callable[[Event], None]) -> Driver:
        spec = self._job.spec
        bounds = Bounds(
            min_workers=spec.workers.min,
            max_workers=spec.workers.max,
            per_rank=spec.workers.resources.as_ray(),
            ranks_per_worker=self._options.ranks_per_worker,
        )
        attempts = store.record.attempts
        return Driver(
            DriverConfig(
                job=self._prepared.job,
                ranks_per_worker=self._options.ranks_per_worker,
                first_attempt=attempts[-1].attempt + 1 if attempts else 1,
                first_cause=Cause.RESUME if attempts else Cause.START,
                budget=RetryBudget(failures=spec.retries.failures, preemptions=spec.retries.preemptions),
            ),
            hub,
            LeaseSizes(bounds, FileLease(self._run_dir).read, capacity.read_nodes),
            restore_point=self._restore_point,
            emit=emit,
            wants_stop=self._options.wants_stop,
            metrics=self._prepared.task.metrics,
        )

    def _restore_point(self) -> RestoreFrom | None:
        newest = latest(open_storage(self._prepared.storage_url), self._job.metadata.name)
        return RestoreFrom(step=newest.step, keepers=False) if newest else None

    def _start_agent(self, node_id: str) -> None:
        config = AgentConfig(
            session=self._id,
            log_dir=str(self._log_dir),
            fork=self._options.fork,
            preload=self._prepared.preload,
            environment=self._prepared.environment,
        )
        self._agents[node_id] = start_agent(config, node_id)

    def _close_agents(self) -> None:
        closing = [agent.close.remote() for agent in self._agents.values()]
        ray.wait(closing, num_returns=len(closing), timeout=10.0)
        for agent in self._agents.values():
            _kill(agent)


def _kill(actor: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)


def _result(
    job: TrainJob, prepared: Prepared, store: RecordStore, run_dir: Path, status: Status, detail: str
) -> RunResult:
    record = store.record
    last = record.steps.get(record.steps_done)
    model_dir = None
    if status is Status.SUCCEEDED:
        from orchestrator.adapters.ray_train.export import export_checkpoint

        step = record.checkpoint.step if record.checkpoint else record.steps_done
        model_dir = export_checkpoint(job, prepared.storage_url, job.metadata.name, step, run_dir / "model")
    return RunResult(
        run_id=job.metadata.name,
        status=status,
        detail=detail,
        steps=record.steps_done,
        loss=last.loss if last else None,
        metrics=prepared.task.metrics(last.loss) if last else {},
        model_dir=model_dir,
        run_dir=run_dir,
        dataset_hash=prepared.dataset_hash,
    )
