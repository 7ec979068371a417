"""Fewer bits: how far weights may move, what stays as it is, and that the server computes the same integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from jobs.models.gpt import GPT
from jobs.models.load import load_model
from jobs.models.packed import Packing, pack, unpack
from jobs.transform.quantize import quantize
from orchestrator.registry.source import count_parameters
from orchestrator.spec.errors import ExitCode, UserError
from serving.engine.int8 import Int8Linear
from serving.engine.protocol import DecodeRow
from serving.engine.torch_engine import load_engine, load_placed
from tests.serving.worlds import GREEDY, tiny_model
from tests.transform.folders import folder_of, tensors, weights_of

MATRICES = st.tuples(
    st.integers(1, 6), st.integers(1, 80), st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 0.02, 3.0])
)


def matrix(rows: int, columns: int, seed: int, size: float) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size


@given(MATRICES)
def test_eight_bits_move_a_weight_by_half_a_step_at_most(drawn: tuple[int, int, int, float]) -> None:
    weight = matrix(*drawn)
    packing = Packing(bits=8, group=0, shape=tuple(weight.shape))
    back = unpack(*pack(weight, packing), packing)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((back - weight).abs() <= step * 0.5001 + 1e-12).all())


@given(MATRICES, st.sampled_from([2, 16, 32, 64]))
def test_four_bits_err_no_more_than_a_symmetric_grid(drawn: tuple[int, int, int, float], group: int) -> None:
    weight = matrix(*drawn)
    packing = Packing(bits=4, group=group, shape=tuple(weight.shape))
    back = unpack(*pack(weight, packing), packing)
    for start in range(0, weight.shape[1], group):
        part, found = weight[:, start : start + group], back[:, start : start + group]
        step = (part.abs().amax(1, keepdim=True) / 7).to(torch.bfloat16).float()
        plain = (part / step).round().clamp(-8, 7) * step
        assert bool(((found - part).square().sum(1) <= (plain - part).square().sum(1) * 1.0001).all())


def test_nothing_stays_nothing() -> None:
    for bits, group in ((8, 0), (4, 32)):
        packing = Packing(bits=bits, group=group, shape=(3, 40))
        assert torch.equal(unpack(*pack(torch.zeros(3, 40), packing), packing), torch.zeros(3, 40))


@pytest.mark.parametrize("bits", [8, 4])
def test_matrices_are_packed_and_all_else_stays(tmp_path: Path, bits: int) -> None:
    weights = {**tensors(1), "cube": torch.randn(4, 5, 16), "count": torch.arange(6).view(2, 3)}
    done = quantize("m@1", folder_of(tmp_path / "m", weights), tmp_path / "out", bits=bits)
    found = weights_of(tmp_path / "out")
    packed = {name for name in weights if name + ":scale" in found}
    # Three columns are not worth a group's scale.
    assert packed == {"wide", "cube"} | ({"tall"} if bits == 8 else set())
    assert all(torch.equal(found[name], weights[name]) for name in set(weights) - packed)
    assert (done.num_packed, done.num_kept) == (len(packed), len(weights) - len(packed))
    assert done.bytes_after == sum(tensor.nbytes for tensor in found.values()) < done.bytes_before
    assert count_parameters(tmp_path / "out", ("model.safetensors",)) == sum(one.numel() for one in weights.values())


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "gpt")


@pytest.mark.parametrize(("bits", "off"), [(8, 0.05), (4, 0.3)])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_server_loads_it_and_scores_stay_near(
    gpt: Path, tmp_path: Path, bits: int, off: float, precision: str
) -> None:
    quantize("gpt@1", gpt, tmp_path / "out", bits=bits)
    wanted, found = (scores(folder, precision) for folder in (gpt, tmp_path / "out"))
    assert float((found - wanted).norm() / wanted.norm()) < off
    assert not torch.equal(found, wanted)


def scores(folder: Path, precision: str) -> torch.Tensor:
    """What a version, placed as the server places it, says after a prompt."""
    placed: Any = load_placed(folder, precision)[0]
    tokens = torch.frombuffer(bytearray(b"def fibonacci(n):\n    return"), dtype=torch.uint8).long()
    return placed.prefill(tokens, placed.new_cache(1, 64), 0, 0).float()


def test_the_int8_engine_computes_in_the_same_integers(gpt: Path, tmp_path: Path) -> None:
    quantize("gpt@1", gpt, tmp_path / "out", bits=8)
    stored, (placed, _) = load_file(tmp_path / "out" / "model.safetensors"), load_placed(tmp_path / "out", "int8")
    layers = {name: layer for name, layer in placed.named_modules() if isinstance(layer, Int8Linear)}
    assert len(layers) == 8
    for name, layer in layers.items():
        assert torch.equal(layer.weight_OI, stored[f"{name}.weight"])
        torch.testing.assert_close(layer.scale_O, stored[f"{name}.weight:scale"], rtol=1e-6, atol=0)


def test_the_engine_answers_by_the_weights_that_are_stored(gpt: Path, tmp_path: Path) -> None:
    quantize("gpt@1", gpt, tmp_path / "out", bits=8)
    engine = load_engine(tmp_path / "out", num_slots=2, max_context=None, precision="fp32")
    model, tokens = load_model(tmp_path / "out")[0], list(b"import os")
    answer = engine.prefill(0, tokens, start=0, sampling=GREEDY)
    for _ in range(8):
        with torch.inference_mode():
            assert answer == int(model(torch.tensor([tokens]))[0, -1].argmax())
        tokens.append(answer)
        row = DecodeRow(slot=0, token=answer, position=len(tokens) - 1, sampling=GREEDY)
        (answer,) = engine.decode([row])


def test_a_tied_matrix_comes_back_under_all_its_names(gpt: Path, tmp_path: Path) -> None:
    quantize("gpt@1", gpt, tmp_path / "out", bits=8, keep=["blocks.*"])
    (full, _), (small, _) = load_model(gpt), load_model(tmp_path / "out")
    assert isinstance(full, GPT)
    assert isinstance(small, GPT)
    assert torch.equal(small.blocks[0].mlp.widen.weight, full.blocks[0].mlp.widen.weight)
    assert not torch.equal(small.embedding.weight, full.embedding.weight)


def refusal(folder: Path, out: Path, **how: object) -> UserError:
    with pytest.raises(UserError) as refused:
        quantize("m@1", folder, out, **{"bits": 8, **how})  # type: ignore[arg-type]
    assert not out.exists()
    return refused.value


def test_what_cannot_be_quantized_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", tensors(1))
    assert refusal(folder, tmp_path / "no", keep=["layer*"]).problem.startswith(
        "no matrix is called like 'layer*', which is to be kept; there are tall, wide"
    )
    none = folder_of(tmp_path / "none", {"norm": torch.ones(4)})
    assert refusal(none, tmp_path / "no").code is ExitCode.NEVER
    quantize("m@1", folder, tmp_path / "out", bits=4)
    assert (
        refusal(tmp_path / "out", tmp_path / "no").problem == "it is quantized, and only full weights can be quantized"
    )
    broken = folder_of(tmp_path / "broken", {"w": torch.full((4, 8), float("nan"))})
    assert "w holds numbers that are not finite" in refusal(broken, tmp_path / "no").problem
    with pytest.raises(ValueError, match="bits is 3"):
        quantize("m@1", folder, tmp_path / "no", bits=3)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("{", "what it says of its quantized tensors cannot be read"),
        (json.dumps({"w": {"bits": 4, "group": 0, "shape": [2, 8]}}), "cannot be read"),
        (json.dumps({"w": {"bits": 8, "group": 0, "shape": [2, 9]}}), "w is not what a tensor of 8 bits is kept as"),
        (json.dumps({"v": {"bits": 8, "group": 0, "shape": [2, 8]}}), "v is not what a tensor of 8 bits is kept as"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(gpt: Path, said: str, problem: str) -> None:
    parts = {"w": torch.zeros(2, 8, dtype=torch.int8), "w:scale": torch.ones(2)}
    save_file(parts, gpt / "model.safetensors", metadata={"quantization": said})
    with pytest.raises(UserError, match=problem):
        load_model(gpt)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    quantize("m@1", folder_of(tmp_path / "m", tensors(1)), tmp_path / "out", bits=4, group=64)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as stored:
        said = json.loads(stored.metadata()["quantization"])
    assert said == {"wide": {"bits": 4, "group": 64, "shape": [6, 70]}}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["transform"] == {"relation": "quantized", "model": "m@1", "bits": 4, "group": 64, "keep": []}
