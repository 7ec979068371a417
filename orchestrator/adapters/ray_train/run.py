"""One training job on the Ray cluster this process is connected to, from its spec to an exported model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from orchestrator.adapters.own_code import with_pinned_code
from orchestrator.adapters.ray_train.events import Event, Status, StatusChanged
from orchestrator.adapters.ray_train.governor import Habits
from orchestrator.adapters.ray_train.inside import Inside
from orchestrator.adapters.ray_train.lease import Lease
from orchestrator.adapters.ray_train.metrics import RunMetrics
from orchestrator.adapters.ray_train.notice_desk import NoticePlan
from orchestrator.adapters.ray_train.prepare import Prepared, prepare
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.adapters.ray_train.record_store import RecordStore
from orchestrator.adapters.ray_train.session import Session, SessionConfig
from orchestrator.adapters.ray_train.tier import Tier
from orchestrator.policy.resize import ResizeRules
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)

# Restraint while nobody forecasts capacity: offered room is expected to stay for a quarter of an hour, a second resize
# waits half a minute. Departures announced within 10 s of the first are answered together, where its deadline allows;
# the state leaves the node at once all the same.
HABITS = Habits(
    rules=ResizeRules(dwell_s=30.0, settle_s=2.0, collect_s=10.0, margin=0.1), stay_s=900.0, stall_s=10.0, stop_s=5.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How this process runs a job.

    `ranks_per_worker`: ranks that one Ray Train worker supervises. `fork` False starts every rank by a new interpreter,
    `keep` False keeps no snapshots in memory. `wants_stop` is asked a few times a second: 1 = stop in order, 2 = at
    once. `metrics_port` 0 takes any free one. `notices`: where nodes look for notices that say nothing themselves.
    `read_lease` says what the run may hold now; None = the file that `tide resize` writes. `on_inside` is given the way
    into the run for people while it lasts, and None at its end.
    """

    ranks_per_worker: int = 1
    fork: bool = True
    keep: bool = True
    habits: Habits = HABITS
    wants_stop: Callable[[], int] = lambda: 0
    metrics_port: int = 0
    notices: NoticePlan = field(default_factory=NoticePlan)
    tier: Tier = Tier.AUTO
    read_lease: Callable[[], Lease] | None = None
    on_inside: Callable[[Inside | None], None] = lambda inside: None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    `model_dir` is a plain model directory when it succeeded, `metrics` are then those of the validation split (without
    one: of the last step); `detail` says what failed; `checkpoint_step` is the newest state on storage; `code` is what
    the job's own code is called, "" if it brought none.
    """

    run_id: str
    status: Status
    detail: str
    steps: int
    loss: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint_step: int | None = None
    model_dir: Path | None = None
    run_dir: Path
    dataset_hash: str
    code: str = ""


def run_train_job(
    job: TrainJob,
    home: Path,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    options: RunOptions | None = None,
) -> RunResult:
    """Run `job` until it has finished, failed or been stopped; a run of the same name goes on from its newest state.

    Ray must be initialised. Raises: UserError for what is wrong with the job before it starts; a failure of the run
    itself is a result.
    """
    options = options or RunOptions()
    name = job.metadata.name
    run_dir = home / "runs" / name
    job = with_pinned_code(job, home)
    prepared = prepare(job, home, run_id=name)
    with contextlib.ExitStack() as stack:
        store = RecordStore(run_dir, name)
        stack.callback(store.close)
        (run_dir / "job.json").write_text(job.model_dump_json(indent=1), encoding="utf-8")
        metrics = RunMetrics(name)
        port, close_metrics = metrics.serve(options.metrics_port)
        stack.callback(close_metrics)
        log.info("run metrics", url=f"http://127.0.0.1:{port}/metrics", job=name)

        def emit(event: Event) -> None:
            store.append(event)
            metrics.observe(event, store.record)
            on_event(event)

        with Session(job, prepared, run_dir, _session_config(options)) as session:
            try:
                status, detail = session.run(store.record, emit)
            except UserError as error:  # what only the nodes could say: it is the record's last word, too
                emit(StatusChanged(at_s=time.time(), status=Status.FAILED, detail=str(error)))
                raise
    return _result(job, prepared, store.record, run_dir, status, detail)


def _session_config(options: RunOptions) -> SessionConfig:
    return SessionConfig(
        ranks_per_worker=options.ranks_per_worker,
        fork=options.fork,
        keep=options.keep,
        habits=options.habits,
        wants_stop=options.wants_stop,
        notices=options.notices,
        tier=options.tier,
        read_lease=options.read_lease,
        on_inside=options.on_inside,
    )


def _result(
    job: TrainJob, prepared: Prepared, record: RunRecord, run_dir: Path, status: Status, detail: str
) -> RunResult:
    last = record.steps.get(record.steps_done)
    saved = record.checkpoint.step if record.checkpoint else None
    model_dir, metrics = None, prepared.task.metrics(last.loss) if last else {}
    if status is Status.SUCCEEDED:
        # Imported here: both bring torch, and a run that fails needs neither.
        from orchestrator.adapters.ray_train.export import export_checkpoint
        from orchestrator.adapters.ray_train.outcome import validation_metrics

        step = saved or record.steps_done
        model_dir = export_checkpoint(
            prepared.storage_url, job.metadata.name, step, run_dir / "model", code=prepared.code_dir
        )
        metrics = validation_metrics(prepared, model_dir) or metrics
    return RunResult(
        run_id=job.metadata.name,
        status=status,
        detail=detail,
        steps=record.steps_done,
        loss=last.loss if last else None,
        metrics=metrics,
        checkpoint_step=saved,
        model_dir=model_dir,
        run_dir=run_dir,
        dataset_hash=prepared.dataset_hash,
        code=prepared.code,
    )
