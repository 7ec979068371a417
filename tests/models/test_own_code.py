"""A model carries the code it was built by, and versions with different code live side by side in one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from jobs.models import own_code
from jobs.models.load import ModelConfig, load_model, save_model
from jobs.models.own_code import CODE_FOLDER, importing_from

TASK = """
from torch import nn
from carried_parts import WIDTH
from jobs.models.task import Task

class Carried(nn.Linear):
    def late(self):
        import carried_late
        return carried_late.VALUE

class CarriedTask(Task):
    def build_model(self):
        return Carried(WIDTH, 1)

    def open_data(self, root, split):
        raise NotImplementedError

    def loss(self, model, batch):
        raise NotImplementedError

def task() -> Task:
    return CarriedTask()
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    path, modules, opened = list(sys.path), set(sys.modules), set(own_code._opened)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    own_code._opened.clear()
    own_code._opened.update(opened)


def carried(folder: Path, width: int) -> Path:
    save_model(nn.Linear(width, 1), ModelConfig(task="carried_task:task", args={}), folder)
    code = folder / CODE_FOLDER
    code.mkdir()
    (code / "carried_task.py").write_text(TASK)
    (code / "carried_parts.py").write_text(f"WIDTH = {width}\n")
    (code / "carried_late.py").write_text(f"VALUE = {width * 10}\n")
    return folder


def test_two_versions_with_different_code_are_loaded_in_one_process(tmp_path: Path) -> None:
    first, _ = load_model(carried(tmp_path / "1", 3))
    second, _ = load_model(carried(tmp_path / "2", 5))
    again, _ = load_model(tmp_path / "1")
    assert [model.in_features for model in (first, second, again)] == [3, 5, 3]
    assert type(first) is not type(second)
    assert again.late() == 30, "an import within a function finds the folder of the model that was loaded last"


def test_what_is_installed_is_not_replaced_by_a_file_of_that_name(tmp_path: Path) -> None:
    folder = carried(tmp_path / "1", 3)
    (folder / CODE_FOLDER / "jobs").mkdir()
    (folder / CODE_FOLDER / "jobs" / "__init__.py").write_text("raise SystemExit\n")
    jobs = sys.modules["jobs"]
    load_model(folder)
    assert sys.modules["jobs"] is jobs


def test_a_model_without_code_changes_nothing(tmp_path: Path) -> None:
    before = list(sys.path)
    with importing_from(tmp_path / CODE_FOLDER):
        assert sys.path == before
    assert sys.path == before
