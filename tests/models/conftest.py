"""A GPT small enough for tests of milliseconds, and a packed folder of text for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.data import pack
from jobs.models.gpt import GPT, GPTTask, task


@pytest.fixture
def tiny() -> GPTTask:
    return task(layers=2, d_model=32, heads=2, seq_len=16)


@pytest.fixture
def model(tiny: GPTTask) -> GPT:
    """Weights far larger than at the start of training, so that every part has a visible effect on the result."""
    torch.manual_seed(1)
    built = tiny.build_model().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return built


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of a few kilobytes of code."""
    root, home = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("home")
    for i in range(40):
        (root / f"file{i}.py").write_text(f"def f{i}(x):\n    return x * {i} + {i % 3}\n" * 5)
    return pack(root, name="code", home=home).folder
