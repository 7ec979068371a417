"""A GPT task whose samples can only be read forwards, in nine files, and whose loss draws from numpy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from jobs.models import gpt
from jobs.models.task import Batch, SampleSource, StreamSource

NUM_FILES = 9


def task() -> StreamTask:
    """20,000 parameters with dropout."""
    return StreamTask(gpt.GPTConfig(layers=2, d_model=32, heads=2, seq_len=32, dropout=0.1))


class _Files:
    num_items = NUM_FILES

    def __init__(self, source: SampleSource) -> None:
        self._source = source

    def read(self, items: range, skip: int) -> Iterator[dict[str, Tensor]]:
        # Five samples a file, so that shards end and begin again within a few steps.
        numbers = (item * 5 + place for item in items for place in range(5))
        for number in islice(numbers, skip, None):
            yield {name: rows[0] for name, rows in self._source.batch(np.array([number])).items()}


class StreamTask(gpt.GPTTask):
    """Works like the GPT task."""

    def open_data(self, root: Path, split: str) -> StreamSource:  # type: ignore[override]
        return _Files(super().open_data(root, split))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * (1.0 + 0.1 * np.random.rand() + 0.1 * random.random())
