"""A problem whose best learning rate falls while it is solved: a far optimum that is seen through noise.

A linear model starts at zero, `distance` away from the truth in each of `width` coordinates, and reads samples
`y = x . truth + noise`. Adam moves each coordinate by about the rate a step, so a small rate does not arrive within the
job's steps; and a rate that stays keeps the weights moving by about itself, so a large one does not come to rest.
Validation samples are free of noise: the loss is the distance that is left, squared. Samples are drawn from their ids,
so every trial of a seed reads the same ones.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.models.task import Batch, Task

NUM_SAMPLES = {"train": 1 << 20, "validation": 256}


@dataclasses.dataclass(frozen=True, slots=True)
class NoisyReadings:
    """Samples by id; another split, other samples."""

    width: int
    distance: float
    noise: float
    split: str

    @property
    def num_samples(self) -> int:
        return NUM_SAMPLES[self.split]

    def batch(self, ids: NDArray[np.int64]) -> Batch:
        rows = [self._row(int(one)) for one in ids]
        x_BD = torch.from_numpy(np.stack([row[: self.width] for row in rows]))
        truth_D = self.distance * (1.0 - 2.0 * (torch.arange(self.width) % 2))
        noise_B = torch.from_numpy(np.stack([row[self.width] for row in rows])) * self.noise
        return {"x_BD": x_BD, "y_B": x_BD @ truth_D + (noise_B if self.split == "train" else 0.0)}

    def _row(self, sample: int) -> NDArray[np.float32]:
        generator = np.random.default_rng((sample, self.split == "train"))
        return generator.standard_normal(self.width + 1, dtype=np.float32)


class FarLine(Task):
    """Find the truth."""

    tokens_per_sample = 1

    def __init__(self, width: int, distance: float, noise: float) -> None:
        self._width, self._distance, self._noise = width, distance, noise

    def build_model(self) -> nn.Module:
        model = nn.Linear(self._width, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def open_data(self, root: Path, split: str) -> NoisyReadings:
        return NoisyReadings(self._width, self._distance, self._noise, split)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch["x_BD"]).squeeze(-1) - batch["y_B"]) ** 2).mean()

    def metrics(self, mean_loss: float) -> dict[str, float]:
        return {"squared_error": mean_loss}

    def flops_per_sample(self) -> float:
        return 6.0 * self._width


def task(*, width: int = 32, distance: float = 2.0, noise: float = 1.0) -> FarLine:
    """The task `tests.benchmarks.study_noisy:task`."""
    return FarLine(width, distance, noise)
