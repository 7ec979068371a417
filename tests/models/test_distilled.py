"""A student's loss is a mixture while it trains, and the text's alone when it is measured; it outlives its teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.models.distilled import DistilledTask, task
from jobs.models.gpt import GPT
from jobs.models.load import ModelConfig, load_model, save_model
from jobs.models.task import load_task, num_parameters
from orchestrator.spec.errors import ExitCode, UserError

ARGS = {"layers": 1, "d_model": 32, "heads": 2, "seq_len": 16}


@pytest.fixture
def teacher(model: GPT, tmp_path: Path) -> Path:
    args = {"layers": 2, "d_model": 32, "heads": 2, "seq_len": 16}
    return save_model(model, ModelConfig(task="jobs.models.gpt:task", args=args), tmp_path / "teacher")


def student(teacher: Path, share: float) -> DistilledTask:
    made = load_task("jobs.models.distilled:task", {**ARGS, "teacher": str(teacher), "share": share})
    assert isinstance(made, DistilledTask)
    return made


def test_training_mixes_the_text_with_what_the_teacher_expects(teacher: Path, model: GPT, packed: Path) -> None:
    made = student(teacher, 0.3)
    torch.manual_seed(0)
    built, batch = made.build_model(), made.open_data(packed, "train").batch(np.arange(4))
    text = made.loss(built.eval(), batch)
    with torch.no_grad():
        expected = F.softmax(model(batch["bytes_BT"][:, :-1]), dim=-1)
        taught = F.cross_entropy(built(batch["bytes_BT"][:, :-1]).flatten(0, 1), expected.flatten(0, 1))
    mixed = made.loss(built.train(), batch)
    torch.testing.assert_close(mixed, 0.7 * text + 0.3 * taught)
    mixed.backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    assert all(parameter.grad is None for parameter in made._teacher.parameters())


def test_a_teacher_is_checked_before_training_and_not_missed_after(teacher: Path, packed: Path, tmp_path: Path) -> None:
    made = student(teacher, 1.0)
    args = {**ARGS, "teacher": str(teacher)}
    folder = save_model(made.build_model(), ModelConfig(task="jobs.models.distilled:task", args=args), tmp_path / "m")
    assert made.flops_per_sample() > 6 * num_parameters(made) * made.tokens_per_sample
    shutil.rmtree(teacher)
    assert isinstance(load_model(folder)[0], GPT)
    with pytest.raises(UserError, match="no model there") as refused:
        made.open_data(packed, "train")
    assert refused.value.code is ExitCode.UNKNOWN


def test_a_share_of_nothing_is_refused(teacher: Path) -> None:
    with pytest.raises(ValueError, match="share is 0"):
        task(teacher=str(teacher), share=0)
