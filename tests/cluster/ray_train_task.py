"""A tiny GPT whose passes take a while, so that things can happen between two steps."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor, nn

from jobs.models import gpt
from jobs.models.gpt import GPTConfig, GPTTask
from jobs.models.task import Batch


class SlowTask(GPTTask):
    """`GPTTask` with a pause in every pass, as long as a file says at that moment."""

    def __init__(self, config: GPTConfig, pace_file: str) -> None:
        super().__init__(config)
        self._pace_file = Path(pace_file)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(float(self._pace_file.read_text()))
        return super().loss(model, batch)


def task(*, pace_file: str) -> SlowTask:
    """Two small layers with dropout; every pass waits the seconds that are written in `pace_file`."""
    return SlowTask(gpt.task(layers=2, d_model=32, seq_len=32, dropout=0.1).config, pace_file)
