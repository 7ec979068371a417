"""The task protocol: what a user writes so that the trainer can train a model and the server can serve it.

A job's YAML names a factory as `module.path:factory`; `factory(**args)` returns a `Task`. The trainer asks the task for
the model, the data and the loss of one micro-batch; it owns everything else (order of samples, weighting of
micro-batches, optimizer, precision, checkpoints). The server asks it for the model alone.

Shapes: B rows of one micro-batch. Everything a task returns lives on the CPU; the trainer moves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


@runtime_checkable
class AugmentedSource(SampleSource, Protocol):
    """Samples that are changed at random for training: crops, masks, noise."""

    def augmented_batch(self, ids: NDArray[np.int64], seeds: NDArray[np.uint64]) -> dict[str, Tensor]:
        """As `batch`, changed by draws that seeds[i] alone decides for row i.

        A seed is a function of the run's seed, the epoch and the id: another each time a sample is taken, the same at
        every world size. Called from a thread beside the training, so nothing may be drawn from a global generator.
        """
        ...


@runtime_checkable
class StreamSource(Protocol):
    """Samples without numbers: in `num_items` files, or other things that can be opened, each only read forwards.

    The trainer spreads the items over at least as many shards as a step has micro-batches, and one rank at a time reads
    a shard. It remembers no place but the step, so every reading must give the same samples in the same order.
    """

    num_items: int

    def read(self, items: range, skip: int) -> Iterator[Mapping[str, Tensor]]:
        """Samples of these items, one item after the other, as CPU tensors without a dimension for rows; the first
        `skip` are left out, and nothing comes where there are no more than that. A shard that ends is begun again."""
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

    def open_data(self, root: Path, split: str) -> SampleSource | StreamSource:
        """The samples of `split` ("train" or "validation") of the data set in folder `root`.

        Training takes an `AugmentedSource` or a `StreamSource`, too; evaluation reads by number.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of one micro-batch: the mean over its rows, weighted by `sample_weights` where that is not None.

        `model` may be wrapped: call it, do not reach into it. Random draws come from the default generators of torch,
        numpy and Python, which the trainer seeds per micro-batch.
        """
        ...

    def sample_weights(self, source: SampleSource, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Weight of each sample in the mean (tokens that count, say), shape (len(ids),); None means equal weights.

        Not asked where the training data are a `StreamSource`: no rank sees the whole step's samples.
        """
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
