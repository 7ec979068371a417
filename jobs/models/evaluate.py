"""How good a model is on data it was not trained on."""

# mypy: allow-subclassing-any, allow-untyped-decorators
# torch is not read by mypy, so its classes and decorators are of type Any.
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jobs.models.task import SampleSource, Task
from orchestrator.spec.errors import UserError

# Enough for three digits of a mean loss, few enough for a driver without a device. One number, so that figures of a
# version can be compared with those of the versions it was made from.
EVALUATION_SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Mean loss over `num_samples` samples, weighted as in training, and the task's figures made of it."""

    loss: float
    metrics: dict[str, float]
    num_samples: int


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, source: SampleSource, *, batch_size: int = 64, max_samples: int | None = None
) -> Evaluation:
    """Mean loss of `model`, without dropout, where the model's parameters are; the same samples every time.

    `max_samples` takes that many, spread evenly over the source. Raises: UserError if the source is empty.
    """
    ids = _chosen(source.num_samples, max_samples)
    if not len(ids):
        raise UserError("there is no sample to evaluate on", next_step="Pack more text, or choose a shorter seq_len.")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        total, weight = 0.0, 0.0
        for batch_ids in _batches(ids, batch_size):
            weights = task.sample_weights(source, batch_ids)
            batch_weight = float(len(batch_ids) if weights is None else weights.sum())
            batch = {name: tensor.to(device) for name, tensor in source.batch(batch_ids).items()}
            total += batch_weight * float(task.loss(model, batch))
            weight += batch_weight
    finally:
        model.train(was_training)
    mean = total / weight
    return Evaluation(loss=mean, metrics=task.metrics(mean), num_samples=len(ids))


def _chosen(num_samples: int, max_samples: int | None) -> NDArray[np.int64]:
    count = num_samples if max_samples is None else min(max_samples, num_samples)
    return np.arange(count, dtype=np.int64) * num_samples // max(1, count)


def _batches(ids: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(ids), batch_size):
        yield ids[start : start + batch_size]
