"""The page for people with a model of their own: its files do what it says, by themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.data import pack
from jobs.models.task import SampleSource, load_task
from orchestrator.spec import TrainJob, load_text
from tests.docs.test_documents import ROOT

TEXT = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")


def _block(kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def _script() -> str:
    found = re.search(r"<<'END'\n(.*?)^END$", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_its_job_is_valid() -> None:
    (job,) = load_text(_block("yaml"), "houses.yaml")
    assert isinstance(job, TrainJob)
    assert job.spec.task == "houses_task:Houses"


def test_its_task_learns_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", _script()], cwd=tmp_path, check=True)
    (tmp_path / "houses_task.py").write_text(_block("python"))
    packed = pack(tmp_path / "houses", name="houses", home=tmp_path / "home")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = load_task("houses_task:Houses", {"hidden": "16"})
    source, held_out = (task.open_data(packed.folder, split) for split in ("train", "validation"))
    assert isinstance(source, SampleSource)
    assert source.num_samples > 10 * held_out.num_samples > 0
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        loss = task.loss(model, source.batch(np.arange(step * 32, (step + 1) * 32)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
