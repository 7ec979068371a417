"""The task protocol: what a user writes so that the trainer can train a model and the server can serve it.

A job's YAML names a factory as `module.path:factory`; `factory(**args)` returns a `Task`. The trainer asks the task for
the model, the data and the loss of one micro-batch; it owns everything else (order of samples, weighting of
micro-batches, optimizer, precision, checkpoints). The server asks it for the model alone.

Shapes: B rows of one micro-batch. Everything a task returns lives on the CPU; the trainer moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


@runtime_checkable
class SampleSource(Protocol):
    """Samples numbered 0 .. num_samples - 1; sample i is the same bytes whoever asks, and however often."""

    num_samples: int

    def batch(self, ids: NDArray[np.int64]) -> dict[str, Tensor]:
        """Samples `ids` as CPU tensors whose row i is sample ids[i]. Raises ValueError for an id out of range."""
        ...


class Task(Protocol):
    """What is learned from what. Subclass it to inherit the defaults, or implement it without inheriting.

    A task is a value: built from the same arguments on every rank, it must behave the same on every rank.
    """

    # Units of work in one sample, for throughput and cost figures: bytes or tokens for text.
    tokens_per_sample: int = 1

    def build_model(self) -> nn.Module:
        """A new model. Called under a seeded generator: all randomness must come from torch's default generator."""
        ...

    def open_data(self, root: Path, split: str) -> SampleSource:
        """The samples of `split` ("train" or "validation") of the data set in folder `root`."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of one micro-batch: the mean over its rows, weighted by `sample_weights` where that is not None.

        `model` may be wrapped: call it, do not reach into it. Random draws come from torch's default generator, which
        the trainer seeds per micro-batch.
        """
        ...

    def sample_weights(self, source: SampleSource, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Weight of each sample in the mean (tokens that count, say), shape (len(ids),); None means equal weights."""
        return None

    def metrics(self, mean_loss: float) -> dict[str, float]:
        """Figures for people and gates, from a mean loss; names end in their unit."""
        return {"loss": mean_loss}

    def flops_per_sample(self) -> float:
        """Floating-point operations of one training sample, forward and backward: 6 per parameter and token."""
        return 6.0 * num_parameters(self) * self.tokens_per_sample


def num_parameters(task: Task) -> int:
    """Trainable parameters of a task's model, counted without allocating them."""
    with torch.device("meta"):
        model = task.build_model()
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def load_task(name: str, args: Mapping[str, Any] | None = None) -> Task:
    """The task that `name` (`module.path:factory`) builds from `args`.

    Values of `args` that are text are read as the type the factory annotates (`int`, `float`, `bool`).
    Raises: UserError that says which of module, factory or argument is wrong and what was probably meant.
    """
    from jobs.models.loading import resolve_task

    return resolve_task(name, dict(args or {}))
