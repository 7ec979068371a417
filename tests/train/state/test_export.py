"""A checkpoint as a plain model folder, read back with safetensors alone and with the task's own loader."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from jobs.models.load import load_model
from jobs.models.task import Task
from jobs.train.state import CorruptStateError, MemorySource, StateError, StorageError
from jobs.train.state.deepspeed_shards import view_of_model
from jobs.train.state.export import export_model
from tests.train.state.fakes import random_whole, save_in_memory, views, zero3_cuts

WHOLE = random_whole({"a": (40, 3), "b": (5,), "f": (4, 2), "n": (2,)}, 1, frozen=("f",), buffers=("n",))


def _read(path):
    with safe_open(path, framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def test_every_tensor_is_whole_again(tmp_path):
    manifest, source = save_in_memory(views(WHOLE, zero3_cuts(WHOLE, 4)))
    export_model(manifest, source, tmp_path / "model")
    found = _read(tmp_path / "model" / "model.safetensors")
    assert set(found) == set(WHOLE.shapes)
    for name, shape in WHOLE.shapes.items():
        kind = {"f": "frozen", "n": "buffer"}.get(name, "fp32")
        assert torch.equal(found[name], WHOLE.flat[kind, name].view(shape))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["task"], config["args"], config["run"], config["step"]) == ("tests:none", {}, "run", 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_trained_parameters_can_be_written_narrower(tmp_path):
    manifest, source = save_in_memory(views(WHOLE, zero3_cuts(WHOLE, 2)))
    export_model(manifest, source, tmp_path / "model", dtype=torch.bfloat16)
    found = _read(tmp_path / "model" / "model.safetensors")
    assert torch.equal(found["a"], WHOLE.flat["fp32", "a"].view(40, 3).bfloat16())
    assert found["n"].dtype == torch.int64


def test_a_damaged_checkpoint_leaves_no_folder(tmp_path):
    manifest, _ = save_in_memory(views(WHOLE, zero3_cuts(WHOLE, 2)))
    with pytest.raises(CorruptStateError):
        export_model(manifest, MemorySource({}), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path):
    manifest, source = save_in_memory(views(WHOLE, zero3_cuts(WHOLE, 2)))
    export_model(manifest, source, tmp_path / "model")
    with pytest.raises(StateError, match="not empty"):
        export_model(manifest, source, tmp_path / "model")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    manifest, source = save_in_memory(views(WHOLE, zero3_cuts(WHOLE, 2)))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_model(manifest, source, tmp_path / "file" / "model")


class Tiny(Task):
    """A task with a tied weight and a buffer."""

    def build_model(self) -> nn.Module:
        model = nn.Module()
        model.embed = nn.Embedding(11, 4)
        model.head = nn.Linear(4, 11, bias=False)
        model.head.weight = model.embed.weight
        model.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
        return model

    def open_data(self, root, split):
        raise NotImplementedError

    def loss(self, model, batch):
        raise NotImplementedError


def tiny() -> Task:
    return Tiny()


def test_the_tasks_own_loader_takes_it_with_tied_names(tmp_path):
    model = Tiny().build_model()
    model.seen += 3
    optimizer = torch.optim.AdamW(model.parameters())
    view = view_of_model(model, optimizer, rank=0, world_size=1, zero_stage=0, precision="fp32")
    assert view.tied == {"head.weight": "embed.weight"}
    manifest, source = save_in_memory([view])
    manifest = replace(manifest, task={"task": "tests.train.state.test_export:tiny", "args": {}})
    export_model(manifest, source, tmp_path / "model")
    loaded, config = load_model(tmp_path / "model")
    assert torch.equal(loaded.head.weight, model.embed.weight)
    assert torch.equal(loaded.seen, model.seen)
    assert config.task.endswith(":tiny")
