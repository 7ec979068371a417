"""From a TrainJob to what a rank is told. Everything a user can get wrong is found here, before anything starts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import structlog

from jobs.data import ensure_dataset, open_dataset
from jobs.models.own_code import importing_from
from jobs.models.task import Task, load_task
from jobs.train.config import OptimizerConfig, RankJob
from jobs.train.footprint import Footprint, footprint, require_small
from orchestrator.adapters.own_code import code_folder, pinned
from orchestrator.adapters.own_packages import install_packages
from orchestrator.adapters.ray_train.fitting import require_share
from orchestrator.adapters.secret_files import SECRETS_FOLDER, SecretError, variables_of
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import ExitCode, UserError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job that can start: its task, its ranks' common instructions, and where things lie.

    `state_bytes` None: the task's model cannot be counted without being built. `code`: what the job's own code is
    called (`code:` and its id), "" if it brought none. `secrets`: more variables, which are for ranks alone and never
    written down.
    """

    task: Task
    job: RankJob
    dataset_dir: Path
    dataset_hash: str
    storage_url: str
    state_bytes: int | None
    cwd: str
    code: str
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    preload: tuple[str, ...]

    @property
    def code_dir(self) -> Path | None:
        """The folder of the job's own code; None if it brought none."""
        return Path(self.cwd) if self.code else None


def prepare(job: TrainJob, home: Path, run_id: str) -> Prepared:
    """Resolve data set, task and storage. Raises: UserError for whatever does not exist or does not fit."""
    spec = job.spec
    runtime = pinned(spec.runtime, home)
    folder = code_folder(runtime, home)
    added = install_packages(runtime.pip, home)
    packages = () if added is None else (str(added),)
    code_paths = packages if folder is None else (str(folder), *packages)
    secrets = _secrets(job, home)
    with _as_in_a_rank(folder, packages, {**spec.runtime.env, **secrets}):
        task = load_task(spec.task, spec.args)
    dataset_dir = ensure_dataset(spec.data.dataset, home)
    size = _footprint(task)
    _require_possible(job, size)
    storage_url = spec.checkpoint.storage or (home / "checkpoints" / job.metadata.name).as_uri()
    return Prepared(
        task=task,
        job=_rank_job(job, run_id, str(dataset_dir), storage_url, code_paths),
        dataset_dir=dataset_dir,
        dataset_hash=open_dataset(dataset_dir).manifest.hash,
        storage_url=storage_url,
        state_bytes=size.state_bytes if size else None,
        cwd="" if folder is None else str(folder),
        code=runtime.working_dir or "",
        environment=dict(spec.runtime.env),
        secrets=secrets,
        # Only our own modules go into the stem: a user's may start threads, and forking those is not safe.
        preload=tuple(name for name in (spec.task.partition(":")[0],) if name.startswith("jobs.")),
    )


def _secrets(job: TrainJob, home: Path) -> dict[str, str]:
    """Raises: UserError (unknown) for a secret that cannot be read."""
    folder = home / SECRETS_FOLDER
    try:
        return variables_of(folder, job.metadata.tenant, job.spec.runtime.secrets)
    except SecretError as error:
        step = f"Put it there, readable for its owner alone: {folder / job.metadata.tenant}/NAME"
        raise UserError(str(error), code=ExitCode.UNKNOWN, where="spec.runtime.secrets", next_step=step) from None


def _footprint(task: Task) -> Footprint | None:
    try:
        return footprint(task)
    except Exception as error:  # a user's code: it may do on real memory what cannot be done without
        log.warning("the model's size is not known before it is built", error=f"{type(error).__name__}: {error}")
        return None


def _require_possible(job: TrainJob, size: Footprint | None) -> None:
    """Raises: UserError for what no cluster could change."""
    spec = job.spec
    if size is None:
        return
    if spec.strict:
        require_small(size.parameters)
    if spec.checkpoint.keeper_memory is not None:
        require_share(size.state_bytes, spec.workers.max, spec.checkpoint.keeper_memory)


def _rank_job(job: TrainJob, run_id: str, dataset_dir: str, storage_url: str, code_paths: tuple[str, ...]) -> RankJob:
    spec = job.spec
    optimizer = spec.optimizer
    return RankJob(
        run_id=run_id,
        attempt=0,
        task=spec.task,
        args=dict(spec.args),
        dataset_dir=dataset_dir,
        seed=spec.data.seed,
        global_batch_size=spec.batch.global_batch_size,
        micro_batch_size=spec.batch.micro_batch_size,
        steps=spec.steps,
        start_step=0,
        zero_stage=cast(Literal[0, 1, 2, 3], spec.deepspeed.zero_stage),
        precision=spec.deepspeed.precision,
        optimizer=OptimizerConfig(
            name=optimizer.name,
            lr=optimizer.lr,
            betas=(optimizer.betas[0], optimizer.betas[1]),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            gradient_clipping=optimizer.gradient_clipping,
            schedule=optimizer.schedule,
            warmup_steps=optimizer.warmup_steps,
            min_lr_ratio=optimizer.min_lr_ratio,
        ),
        ds_extra=cast(dict[str, Any], dict(spec.deepspeed.extra)),
        storage_url=storage_url,
        restore=None,
        snapshot_every_steps=spec.checkpoint.snapshot_every_steps,
        checkpoint_every_s=spec.checkpoint.every,
        keeper_socket="",
        on_nan=spec.on_nan,
        strict=spec.strict,
        code_paths=code_paths,
        collective_timeout_s=spec.hang_timeout,
    )


def as_in_a_rank(prepared: Prepared) -> contextlib.AbstractContextManager[None]:
    """What the task's own code finds here, too, for as long as the context lasts: its import path and variables."""
    packages = tuple(path for path in prepared.job.code_paths if path != prepared.cwd)
    return _as_in_a_rank(prepared.code_dir, packages, {**prepared.environment, **prepared.secrets})


@contextlib.contextmanager
def _as_in_a_rank(code: Path | None, packages: tuple[str, ...], variables: Mapping[str, str]) -> Iterator[None]:
    were = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with contextlib.nullcontext() if code is None else importing_from(code):
            # They stay: only what is not installed is in there, and a module may import more of them at any time.
            sys.path.extend(path for path in packages if path not in sys.path)
            yield
    finally:
        for name, value in were.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
