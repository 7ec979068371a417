"""The competitor of `elastic`: Ray Train 2.60's own elasticity with DeepSpeed ZeRO-3, as both projects document it.

Every worker saves with `engine.save_checkpoint`, reports the folder, and after a restart rank 0 converts the newest
committed checkpoint with `ds_to_universal` when the world size has changed; all ranks then load it as universal.
Tuned as well as its knobs allow: compiled operators are warm, the resize monitor and the health check run every
half second, checkpoints are pointers into shared storage (nothing is uploaded twice), compilers are out of the path.
"""

from __future__ import annotations

import json
import time
import traceback
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MONITOR_INTERVAL_S = 0.5
# Asking for a notice is a barrier over all workers: not every step.
NOTICE_EVERY_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """One run of the competitor; `global_batch_size` must divide by `micro_batch_size` x every world size met."""

    task: str
    args: dict[str, Any]
    data_dir: str
    min_workers: int
    max_workers: int
    global_batch_size: int
    micro_batch_size: int
    steps: int
    checkpoint_every: int
    lr: float
    seed: int
    workdir: str
    zero_stage: int = 3


def environment() -> dict[str, str]:
    """Ray Train's knobs at their best for short stalls; set before Ray starts."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_V2_ENABLED": "1",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def run(job: RayJob) -> None:
    """Train to the end on the connected cluster; every rank-0 step is a line in `workdir/steps.jsonl`."""
    import ray.train
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        train_loop,
        train_loop_config=asdict(job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(job.min_workers, job.max_workers),
            resources_per_worker={"CPU": 1},
            elastic_resize_monitor_interval_s=MONITOR_INTERVAL_S,
        ),
        run_config=ray.train.RunConfig(
            name=_run_folder(job).name,
            storage_path=str(_run_folder(job).parent),
            failure_config=ray.train.FailureConfig(max_failures=-1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    trainer.fit()


def train_loop(config: dict[str, Any]) -> None:
    """One Ray Train worker; its last error is kept in `workdir/error.txt`, since Ray only counts and retries it."""
    try:
        _train(RayJob(**config), entered_s=time.time())
    except Exception:
        Path(config["workdir"], "error.txt").write_text(traceback.format_exc())
        raise


def _train(job: RayJob, *, entered_s: float) -> None:
    """What the documentation of both projects adds up to."""
    import deepspeed
    import numpy as np
    import ray.train
    import torch
    from deepspeed.ops import __compatible_ops__

    from jobs.models.task import load_task

    __compatible_ops__["deepspeed_shm_comm"] = False  # keeps the C++ compiler out of the restart
    rank, world_size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    log = StepLog(Path(job.workdir) / "steps.jsonl") if rank == 0 else None
    if log:
        log.mark("entered", at_s=entered_s, world_size=world_size)
    task = load_task(job.task, job.args)
    torch.manual_seed(job.seed)
    checkpoint = ray.train.get_checkpoint()
    model = task.build_model()
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config=_deepspeed_config(job, world_size, universal=checkpoint is not None),
    )
    step = 0
    if checkpoint is not None:
        step = _restore(engine, Path(checkpoint.path), rank)
    if log:
        log.mark("ready", world_size=world_size, step=step)
    source = task.open_data(Path(job.data_dir), "train")
    passes = job.global_batch_size // (job.micro_batch_size * world_size)
    saved_on_notice = False
    while step < job.steps:
        ids = np.random.default_rng([job.seed, step]).integers(0, source.num_samples, job.global_batch_size)
        for index in range(passes):
            start = (index * world_size + rank) * job.micro_batch_size
            batch = source.batch(ids[start : start + job.micro_batch_size])
            loss = task.loss(engine, batch)
            engine.backward(loss)
            engine.step()
        step += 1
        if log:
            log.step(step, float(loss.detach()), world_size)
        due = step % job.checkpoint_every == 0 or step == job.steps
        # The documented reaction to a notice: one checkpoint at once, then go on until the node is gone.
        if not saved_on_notice and step % NOTICE_EVERY_STEPS == 0 and ray.train.get_preemption_info() is not None:
            saved_on_notice = due = True
        if due:
            _save(engine, job, step, rank)


def _deepspeed_config(job: RayJob, world_size: int, *, universal: bool) -> dict[str, Any]:
    return {
        "train_batch_size": job.global_batch_size,
        "train_micro_batch_size_per_gpu": job.micro_batch_size,
        "gradient_accumulation_steps": job.global_batch_size // (job.micro_batch_size * world_size),
        "optimizer": {"type": "AdamW", "params": {"lr": job.lr, "torch_adam": True}},
        # As ours: whole buckets are summed, instead of going through all ranks in Python in every step.
        "zero_optimization": {"stage": job.zero_stage, **({"reduce_scatter": False} if job.zero_stage < 3 else {})},
        "gradient_clipping": 1.0,
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 10**9,
    }


def _save(engine: Any, job: RayJob, step: int, rank: int) -> None:
    """All ranks write into one shared folder; the report carries a pointer to it, so nothing is copied again."""
    import ray.train
    import torch

    folder = _run_folder(job) / f"checkpoint-{step:06d}"
    engine.save_checkpoint(str(folder), tag="native", client_state={"step": step, "universal_checkpoint_info": {}})
    torch.distributed.barrier()
    # Ray asks for its own filesystem object; a path inside the run's folder is then taken as it is.
    checkpoint = ray.train.Checkpoint(
        path=str(folder), filesystem=ray.train.get_context().get_storage().storage_filesystem
    )
    if rank == 0:
        ray.train.report(
            {"step": step}, checkpoint=checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD
        )
    else:
        ray.train.report({"step": step})


def _run_folder(job: RayJob) -> Path:
    return Path(job.workdir) / "storage" / "ray-elastic"


def _restore(engine: Any, folder: Path, rank: int) -> int:
    """Convert once per folder on rank 0, then load everywhere; returns the step."""
    import torch

    if rank == 0 and not (folder / "latest_universal").exists():
        from deepspeed.checkpoint import ds_to_universal

        ds_to_universal.main(
            Namespace(
                input_folder=str(folder / "native"),
                output_folder=str(folder / "universal"),
                num_extract_workers=2,
                num_merge_workers=2,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
        (folder / "latest_universal").write_text("universal")
    torch.distributed.barrier()
    _, client = engine.load_checkpoint(str(folder), tag="universal")
    return int(client["step"])


class StepLog:
    """Rank 0's append-only record, one JSON object a line, flushed at once so that a kill loses nothing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def step(self, step: int, loss: float, world_size: int) -> None:
        self._write({"kind": "step", "step": step, "loss": loss, "world_size": world_size, "at_s": time.time()})

    def mark(self, what: str, *, at_s: float | None = None, **fields: Any) -> None:
        self._write({"kind": what, "at_s": at_s or time.time(), **fields})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def steps_of(workdir: Path) -> list[dict[str, Any]]:
    """All lines of a run's record, in order."""
    path = workdir / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    import sys

    import ray

    ray.init(address=sys.argv[2], log_to_driver=False)
    run(RayJob(**json.loads(Path(sys.argv[1]).read_text())))
