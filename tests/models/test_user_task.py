"""The example of a user's own task is short, loads by name, and learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tests
from jobs.models.evaluate import evaluate
from jobs.models.task import SampleSource, Task, load_task

_FOLDER = Path(tests.__file__).parents[1] / "cluster-configs" / "tasks"


@pytest.fixture
def wave(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.syspath_prepend(str(_FOLDER))
    return load_task("wave:WaveTask", {"hidden": "16"})


def test_it_is_under_forty_lines() -> None:
    assert len((_FOLDER / "wave.py").read_text().splitlines()) < 40


def test_it_learns(wave: Task, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, source = wave.build_model(), wave.open_data(tmp_path, "train")
    assert isinstance(source, SampleSource)
    before = evaluate(model, wave, source, max_samples=200).loss
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for step in range(60):
        loss = wave.loss(model, source.batch(np.arange(step * 16, (step + 1) * 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert evaluate(model, wave, source, max_samples=200).loss < 0.5 * before


def test_its_samples_are_a_function_of_their_id(wave: Task, tmp_path: Path) -> None:
    source = wave.open_data(tmp_path, "train")
    assert torch.equal(source.batch(np.array([7, 3]))["x"][1], source.batch(np.array([3]))["x"][0])
