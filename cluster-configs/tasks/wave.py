"""A task of your own in one file: a model, a loss and data that learn a noisy wave.

In a TrainJob: `task: wave:WaveTask`, `args: {hidden: 32}`, `runtime: {working_dir: cluster-configs/tasks}`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jobs.models.task import Batch, SampleSource, Task


class Points:
    """Points of the wave; sample i comes from generator i, so it is the same on every machine."""

    num_samples = 100_000

    def batch(self, ids: np.ndarray) -> dict[str, Tensor]:
        draws = torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(int(i))) for i in ids])
        x = 2 * draws[:, :1]
        return {"x": x, "y": torch.sin(x) + 0.1 * draws[:, 1:]}


class WaveTask(Task):
    def __init__(self, hidden: int = 32) -> None:
        self.hidden = hidden

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 1))

    def open_data(self, root: Path, split: str) -> SampleSource:
        return Points()  # `root` is the folder of the job's data set, for tasks that read one

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.mse_loss(model(batch["x"]), batch["y"])
