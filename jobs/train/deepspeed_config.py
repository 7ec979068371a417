"""A job in DeepSpeed's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.train.config import RankJob
from orchestrator.policy.batch_plan import BatchPlan

_NEVER = 10**9
_MAX_BUCKET_ELEMENTS = 200_000_000


def deepspeed_config(job: RankJob, world_size: int, num_parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a job at a world size.

    The batch sizes are nominal: uneven micro-batches are weighted by the loop. Buckets are not larger than the model,
    because DeepSpeed allocates them whole, but for one element: it refuses an odd size (ZeRO 1 and 2).
    """
    plan = BatchPlan(job.global_batch_size, job.micro_batch_size)
    passes = plan.passes(world_size)
    bucket = min(_MAX_BUCKET_ELEMENTS, max(1, num_parameters))
    bucket += bucket % 2
    own: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": job.micro_batch_size,
        "gradient_accumulation_steps": passes,
        "train_batch_size": job.micro_batch_size * passes * world_size,
        "optimizer": {"type": "AdamW", "params": _adamw(job)},
        "zero_optimization": {
            "stage": job.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            # By default gradients are cut up by the rank that keeps them, glued together, summed on all ranks all the
            # same, and cut up again: loops over all ranks in Python, on every rank in every step. Whole buckets are
            # summed instead. ZeRO 3 has a way of its own, which this leaves alone.
            **({"reduce_scatter": False} if job.zero_stage in (1, 2) else {}),
        },
        # Stage 0 has no sharded optimizer that would clip by the global norm and refuse infinite ones: `Engine` does.
        "gradient_clipping": job.optimizer.gradient_clipping if job.zero_stage else 0.0,
        "bf16": {"enabled": job.precision == "bf16"},
        "steps_per_print": _NEVER,
    }
    return merge(own, job.ds_extra)


def _adamw(job: RankJob) -> dict[str, Any]:
    optimizer = job.optimizer
    return {
        "lr": optimizer.lr,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        # Torch's own: DeepSpeed's are compiled at first use. Fused is one pass over the memory instead of ten.
        "torch_adam": True,
        "fused": True,
    }


def merge(own: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`own` with the keys of `extra` put over it, table by table."""
    merged = dict(own)
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
