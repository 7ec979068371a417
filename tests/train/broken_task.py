"""A GPT task that breaks something on purpose in one rank at one step; the checks must see it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.models import gpt
from jobs.models.task import Batch, SampleSource
from jobs.train.samples import Samples, SampleStream

BROKEN_STEP_INDEX = 3
BROKEN_RANK = "1"


def task(*, break_: str) -> BrokenTask:
    """`break_`: "sample" swaps one for another behind the stream's back, "ledger" repeats one, "nan" poisons a loss,
    "hang" never returns."""
    return BrokenTask(break_)


class _SwappedSource:
    def __init__(self, source: SampleSource, task: BrokenTask) -> None:
        self.num_samples = source.num_samples
        self._source = source
        self._task = task
        self._batches = 0

    def batch(self, ids: NDArray[np.int64]) -> dict[str, Tensor]:
        self._batches += 1
        if self._task.is_broken("sample") and self._batches == BROKEN_STEP_INDEX:
            ids = np.append(ids[:-1], ids[0])
        return self._source.batch(ids)


class BrokenTask(gpt.GPTTask):
    """Works like the GPT task until its moment comes."""

    def __init__(self, break_: str) -> None:
        super().__init__(gpt.GPTConfig(layers=2, d_model=32, heads=2, seq_len=32, dropout=0.1))
        self._break = break_
        self._losses = 0
        if break_ == "ledger":
            _repeat_a_sample()

    def is_broken(self, how: str) -> bool:
        return self._break == how and os.environ.get("RANK") == BROKEN_RANK

    def open_data(self, root: Path, split: str) -> Any:
        return _SwappedSource(super().open_data(root, split), self)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        self._losses += 1
        if self._losses == BROKEN_STEP_INDEX and self.is_broken("nan"):
            return loss * torch.tensor(float("nan"))
        if self._losses == BROKEN_STEP_INDEX and self.is_broken("hang"):
            time.sleep(3600)
        return loss


def _repeat_a_sample() -> None:
    """Two shares overlap: what a wrong batch plan would do."""
    whole = SampleStream.micro_batch

    def overlapping(self: SampleStream, step: int, micro_batch: int, micro_batch_size: int) -> Samples:
        samples = whole(self, step, micro_batch, micro_batch_size)
        if step == BROKEN_STEP_INDEX and os.environ.get("RANK") == BROKEN_RANK:
            samples = Samples(samples.epochs, np.append(samples.ids[:-1], samples.ids[0]))
        return samples

    SampleStream.micro_batch = overlapping  # type: ignore[method-assign]
