"""A model folder: what goes in comes out, and what does not belong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jobs.models.gpt import GPT
from jobs.models.load import ModelConfig, differences, load_model, load_weights, save_model
from orchestrator.spec.errors import ExitCode, UserError

ARGS = {"layers": 2, "d_model": 32, "heads": 2, "seq_len": 16}


@pytest.fixture
def folder(model: GPT, tmp_path: Path) -> Path:
    config = ModelConfig(task="jobs.models.gpt:task", args=ARGS, notes={"code_version": "1.0"})
    return save_model(model, config, tmp_path / "models" / "one")


def test_what_was_saved_is_loaded(model: GPT, folder: Path) -> None:
    generator = torch.get_rng_state()
    loaded, config = load_model(folder)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not loaded.training
    assert (config.task, config.args, config.notes["code_version"]) == ("jobs.models.gpt:task", ARGS, "1.0")
    tokens_BT = torch.arange(20)[None]
    assert torch.equal(loaded(tokens_BT), model(tokens_BT))
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_of_another_model_are_named(folder: Path) -> None:
    rewrite_config(folder, args={**ARGS, "layers": 4})
    with pytest.raises(UserError, match=r"blocks\.2\.attention_norm\.weight is missing.* and 8 more"):
        load_model(folder)
    rewrite_config(folder, args={**ARGS, "layers": 1})
    with pytest.raises(UserError, match=r"blocks\.1\.attention_norm\.bias is unknown"):
        load_model(folder)
    rewrite_config(folder, args={**ARGS, "d_model": 64})
    with pytest.raises(UserError, match=r"embedding\.weight is 256x32 instead of 256x64") as caught:
        load_model(folder)
    assert caught.value.where == str(folder / "model.safetensors")


def test_nothing_is_changed_when_weights_do_not_fit(folder: Path, model: GPT) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"] = torch.zeros(33)
    save_file(weights, folder / "model.safetensors")
    before = model.embedding.weight.clone()
    with torch.no_grad():
        model.embedding.weight.add_(1)
    with pytest.raises(UserError, match=r"norm\.weight is 33 instead of 32"):
        load_weights(model, folder / "model.safetensors")
    torch.testing.assert_close(model.embedding.weight, before + 1)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_said(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"damaged|no weights") as caught:
        load_model(folder)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task": 1, "args": {}}', '{"task": "a:b"}', "\x00"])
def test_a_config_that_is_none_is_said(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="not a model's configuration") as caught:
        load_model(folder)
    assert caught.value.where == str(folder / "config.json")


def test_a_missing_file_is_unknown(folder: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
        with pytest.raises(UserError) as caught:
            load_model(folder)
        assert caught.value.code is ExitCode.UNKNOWN
        assert name in caught.value.where


def test_saving_never_overwrites(model: GPT, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        save_model(model, ModelConfig(task="a:b", args={}), folder)
    assert caught.value.code is ExitCode.CONFLICT
    assert load_model(folder)[1].task == "jobs.models.gpt:task"


def test_a_failed_save_leaves_nothing(model: GPT, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_model(model, ModelConfig(task="a:b", args={"bad": object()}), tmp_path / "models" / "one")
    assert list((tmp_path / "models").iterdir()) == []


class Tied(nn.Module):
    """Two names for one tensor, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.tensor(3))


def test_tied_weights_and_buffers_survive(tmp_path: Path) -> None:
    saved, other = Tied(), Tied()
    saved.steps.fill_(9)
    save_model(saved, ModelConfig(task="a:b", args={}), tmp_path / "tied")
    assert set(load_file(tmp_path / "tied" / "model.safetensors")) == {
        "first.weight",
        "first.bias",
        "second.bias",
        "steps",
    }
    load_weights(other, tmp_path / "tied" / "model.safetensors")
    assert other.second.weight is other.first.weight
    torch.testing.assert_close(other.state_dict(), saved.state_dict())


def test_differences_are_empty_only_for_equals() -> None:
    wanted: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": ()}
    assert differences(wanted, wanted) == []
    found: dict[str, tuple[int, ...]] = {"a": (3, 2), "c": (1,)}
    assert differences(wanted, found) == ["b is missing", "c is unknown", "a is 3x2 instead of 2x3"]
