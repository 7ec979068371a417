"""A tiny GPT whose passes take a while, so that things can happen between two steps."""

from __future__ import annotations

import time

from torch import Tensor, nn

from jobs.models import gpt
from jobs.models.gpt import GPTConfig, GPTTask
from jobs.models.task import Batch


class SlowTask(GPTTask):
    """`GPTTask` with a pause in every pass."""

    def __init__(self, config: GPTConfig, pause_s: float) -> None:
        super().__init__(config)
        self._pause_s = pause_s

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(self._pause_s)
        return super().loss(model, batch)


def task(*, pause_s: float = 0.0) -> SlowTask:
    """Two small layers with dropout; every pass waits `pause_s` seconds."""
    return SlowTask(gpt.task(layers=2, d_model=32, seq_len=32, dropout=0.1).config, pause_s)
