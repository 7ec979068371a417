"""The GPT in training: what it sees, what its loss is the mean of, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.data import open_dataset, pack
from jobs.models.byte_windows import ByteWindows
from jobs.models.gpt import GPT, GPTTask, task
from jobs.models.transformer import rotate, rotation


def some_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def test_no_position_sees_the_future(model: GPT) -> None:
    tokens_BT = some_tokens(2, 16)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 9:] = some_tokens(2, 7, seed=1)
    before, after = model(tokens_BT), model(changed_BT)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9], after[:, 9])


def test_every_position_sees_the_whole_past(model: GPT) -> None:
    tokens_BT = some_tokens(1, 16)
    for position in range(15):
        changed_BT = tokens_BT.clone()
        changed_BT[0, position] = (changed_BT[0, position] + 1) % 256
        assert not torch.allclose(model(tokens_BT)[0, -1], model(changed_BT)[0, -1])


def test_scores_depend_on_distance_and_not_on_place(model: GPT) -> None:
    q, k = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    near = [
        rotate(q, rotation(torch.tensor([at + 5]), 8)) * rotate(k, rotation(torch.tensor([at]), 8)) for at in (0, 90)
    ]
    torch.testing.assert_close(near[0].sum(), near[1].sum(), rtol=1e-4, atol=1e-4)


def test_attention_equals_its_textbook_formula(model: GPT) -> None:
    layer, x_BTD = model.blocks[0].attention, torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    turn = rotation(torch.arange(6), 16)

    def textbook(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        hidden = torch.triu(torch.ones(6, 6, dtype=torch.bool), diagonal=1)
        return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    torch.testing.assert_close(layer(x_BTD, turn, textbook), layer(x_BTD, turn, fused))


def test_a_sequence_longer_than_trained_sees_seq_len_back(model: GPT) -> None:
    tokens_BT = some_tokens(1, 40)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 0] = (changed_BT[:, 0] + 1) % 256
    # Two layers reach twice the window less one: position 30 is the last that byte 0 can touch.
    torch.testing.assert_close(model(tokens_BT)[:, 31:], model(changed_BT)[:, 31:])
    assert not torch.allclose(model(tokens_BT)[:, 30], model(changed_BT)[:, 30])


def test_loss_is_the_mean_over_rows_and_so_is_its_gradient(tiny: GPTTask) -> None:
    torch.manual_seed(0)
    model, bytes_BT = tiny.build_model().double(), some_tokens(5, 17)

    def gradient(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        loss = tiny.loss(model, {"bytes_BT": rows})
        loss.backward()
        return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    each = [gradient(bytes_BT[i : i + 1]) for i in range(5)]
    loss, whole = gradient(bytes_BT)
    # The loss is taken in float32 whatever the model computes in.
    torch.testing.assert_close(loss, torch.stack([loss for loss, _ in each]).mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(whole, torch.stack([grad for _, grad in each]).mean(0), rtol=1e-5, atol=1e-8)


def test_a_new_model_knows_nothing(tiny: GPTTask) -> None:
    torch.manual_seed(0)
    loss = tiny.loss(tiny.build_model(), {"bytes_BT": some_tokens(8, 17)}).item()
    assert tiny.metrics(loss)["bits_per_byte"] == pytest.approx(8, abs=0.05)


def test_building_is_a_function_of_the_seed(tiny: GPTTask) -> None:
    def built(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in tiny.build_model().parameters()])

    assert torch.equal(built(3), built(3))
    assert not torch.equal(built(3), built(4))


def test_dropout_draws_from_the_default_generator_and_stops_in_eval(model: GPT) -> None:
    dropping = task(layers=1, d_model=32, heads=2, seq_len=16, dropout=0.5).build_model()
    tokens_BT = some_tokens(2, 16)

    def result(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropping(tokens_BT)

    assert torch.equal(result(1), result(1))
    assert not torch.equal(result(1), result(2))
    dropping.eval()
    assert torch.equal(result(1), result(2))


def test_flops_are_six_per_parameter_plus_attention(tiny: GPTTask) -> None:
    parameters = sum(parameter.numel() for parameter in tiny.build_model().parameters())
    assert tiny.flops_per_sample() == 16 * (6 * parameters + 12 * 2 * 32 * 16)


def test_windows_predict_every_byte_but_the_first_once(packed: Path, tiny: GPTTask) -> None:
    source, text = tiny.open_data(packed, "train"), np.asarray(open_dataset(packed).split("train"))
    rows = source.batch(np.arange(source.num_samples))["bytes_BT"]
    assert rows.dtype == torch.int64
    assert rows.shape == (source.num_samples, 17)
    np.testing.assert_array_equal(rows[:, 1:].flatten(), text[1 : 1 + 16 * source.num_samples])
    np.testing.assert_array_equal(rows[:, 0], text[: 16 * source.num_samples : 16])
    assert len(text) - 1 - 16 * source.num_samples < 16


@pytest.mark.parametrize("num_bytes", range(1, 12))
def test_the_last_window_fits_whatever_the_length(num_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "book").write_bytes(b"x" * 20 * num_bytes)
    split = open_dataset(pack(tmp_path / "text", name="book", home=tmp_path).folder).split("validation")
    assert len(split) == num_bytes + 1
    source = ByteWindows(split, seq_len=4)
    assert source.num_samples == num_bytes // 4
    assert source.batch(np.arange(source.num_samples))["bytes_BT"].shape == (num_bytes // 4, 5)


def test_row_i_is_sample_ids_i(packed: Path, tiny: GPTTask) -> None:
    source = tiny.open_data(packed, "train")
    ids = np.array([5, 0, 5, source.num_samples - 1])
    rows = source.batch(ids)["bytes_BT"]
    for row, sample in zip(rows, ids, strict=True):
        assert torch.equal(row, source.batch(np.array([sample]))["bytes_BT"][0])
    for wrong in ([-1], [source.num_samples]):
        with pytest.raises(ValueError, match="sample ids must be within"):
            source.batch(np.array(wrong))


def test_it_learns_code(packed: Path, tiny: GPTTask) -> None:
    torch.manual_seed(0)
    model, source = tiny.build_model(), tiny.open_data(packed, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        loss = tiny.loss(model, source.batch(generator.integers(0, source.num_samples, 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
