"""A byte GPT that learns from a larger one beside the text: `task: jobs.models.distilled:task`.

The target of every byte is a mixture: the byte that follows, and what the teacher expects (Hinton et al., 1503.02531,
at temperature 1, so that the loss stays a cross-entropy in nats per byte). Outside training the loss is that of the
text alone: figures of students and teachers can be compared. A trained student needs no teacher.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators
# torch is not read by mypy, so its classes and decorators are of type Any.
from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.models.byte_windows import ByteWindows
from jobs.models.gpt import GPTConfig, GPTTask
from jobs.models.gpt import task as plain_task
from jobs.models.load import load_model, read_config
from jobs.models.task import Batch, Task, load_task


class DistilledTask(GPTTask):
    """`share` of the target is the teacher's; `teacher` is the folder of a registered version."""

    def __init__(self, config: GPTConfig, teacher: Path, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, it must be above 0 and at most 1")
        super().__init__(config)
        self.teacher, self.share = teacher, share

    def open_data(self, root: Path, split: str) -> ByteWindows:
        """Raises: UserError where there is no teacher; data is opened before anything is trained, and not to serve."""
        read_config(self.teacher)
        return super().open_data(root, split)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over rows and bytes of the cross-entropy with the mixture."""
        if not model.training:
            return super().loss(model, batch)
        bytes_BT = batch["bytes_BT"]
        scores_BTV = F.log_softmax(model(bytes_BT[:, :-1]).float(), dim=-1)
        text = F.nll_loss(scores_BTV.flatten(0, 1), bytes_BT[:, 1:].flatten())
        taught = -(self._expected(bytes_BT[:, :-1]) * scores_BTV).sum(-1).mean()
        return (1 - self.share) * text + self.share * taught

    def flops_per_sample(self) -> float:
        """The student's, and a forward pass of the teacher: a third of what training it would take."""
        config = read_config(self.teacher)
        return super().flops_per_sample() + load_task(config.task, config.args).flops_per_sample() / 3

    @torch.no_grad()
    def _expected(self, bytes_BT: Tensor) -> Tensor:
        teacher = self._teacher.to(bytes_BT.device)
        return F.softmax(teacher(bytes_BT).float(), dim=-1)

    @functools.cached_property
    def _teacher(self) -> nn.Module:
        return load_model(self.teacher)[0]


def task(
    *,
    teacher: str,
    share: float = 0.5,
    layers: int = 2,
    d_model: int = 64,
    heads: int | None = None,
    seq_len: int = 64,
    mlp_ratio: int = 4,
    dropout: float = 0.0,
) -> Task:
    """The task `jobs.models.distilled:task`; the student's size is said as in `jobs.models.gpt`. Raises: ValueError."""
    student = plain_task(
        layers=layers, d_model=d_model, heads=heads, seq_len=seq_len, mlp_ratio=mlp_ratio, dropout=dropout
    )
    return DistilledTask(student.config, Path(teacher), share)
