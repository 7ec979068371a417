"""How good a trial's model is on the validation split, measured by all its ranks together.

Each rank runs its share of the samples; every rank runs the same number of passes, with weight 0 where it has none
left, because sharded parameters are gathered by all ranks at once. The samples are the same every time.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.models.task import SampleSource, Task
from jobs.train.groups import PendingSum
from orchestrator.spec.errors import UserError

_BATCH = 64


def open_validation(task: Task, dataset_dir: Path) -> SampleSource | None:
    """The validation split; None where the data set has none that can be read by number."""
    try:
        source = task.open_data(dataset_dir, "validation")
    except (UserError, ValueError, KeyError, FileNotFoundError):
        return None
    return source if isinstance(source, SampleSource) and source.num_samples else None


@torch.no_grad()
def measure(
    model: Any,
    task: Task,
    source: SampleSource,
    device: torch.device,
    *,
    samples: int,
    rank: int,
    world_size: int,
    group: Any,
) -> float:
    """Mean loss over `samples` samples, spread evenly over the split; collective, the same number on every rank."""
    count = min(samples, source.num_samples)
    ids = np.arange(count, dtype=np.int64) * source.num_samples // count
    model.eval()
    total, weight = 0.0, 0.0
    try:
        for batch_ids, counts in share(ids, rank, world_size):
            weights = task.sample_weights(source, batch_ids)
            batch_weight = (float(len(batch_ids)) if weights is None else float(weights.sum())) * counts
            batch = {name: tensor.to(device) for name, tensor in source.batch(batch_ids).items()}
            loss = float(task.loss(model, batch))
            total += batch_weight * loss if batch_weight else 0.0
            weight += batch_weight
    finally:
        model.train()
    total, weight = PendingSum((total, weight), group).wait()
    return total / weight


def share(ids: NDArray[np.int64], rank: int, world_size: int) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """This rank's batches and whether they count; as many on every rank."""
    batches = [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
    for turn in range(-(-len(batches) // world_size)):
        at = turn * world_size + rank
        yield batches[min(at, len(batches) - 1)], at < len(batches)
