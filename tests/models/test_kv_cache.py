"""Generation through the cache gives what the full forward gives, whoever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.models import kv_cache
from jobs.models.gpt import GPT, task
from jobs.models.kv_cache import SlotCache

_CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def sequence(length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 7, 16, 40])
@pytest.mark.parametrize("chunk", [1, 3, 16, 64])
def test_chunked_prefill_equals_the_full_forward(model: GPT, length: int, chunk: int) -> None:
    tokens_T = sequence(length, seed=0)
    full_TV, cache = model(tokens_T[None])[0], model.new_cache(2, 64)
    for start in range(0, length, chunk):
        logits_V = model.prefill(tokens_T[start : start + chunk], cache, 1, start)
        torch.testing.assert_close(logits_V, full_TV[min(start + chunk, length) - 1], **_CLOSE)


def test_decode_equals_the_full_forward_beyond_the_trained_length(model: GPT) -> None:
    tokens_T, cache = sequence(50, seed=1), model.new_cache(3, 50)
    full_TV = model(tokens_T[None])[0]
    model.prefill(tokens_T[:5], cache, 2, 0)
    for position in range(5, 50):
        logits_BV = model.decode(tokens_T[position, None], [2], [position], cache)
        torch.testing.assert_close(logits_BV[0], full_TV[position], **_CLOSE)


def generate(model: GPT, prompts: dict[int, torch.Tensor], steps: int, cache: SlotCache) -> dict[int, list[int]]:
    """Greedy tokens for each slot's prompt, all slots in one batch, in the order of `prompts`."""
    slots = list(prompts)
    last = [model.prefill(tokens_T, cache, slot, 0).argmax() for slot, tokens_T in prompts.items()]
    out = {slot: [int(token)] for slot, token in zip(slots, last, strict=True)}
    for step in range(steps):
        positions = [len(prompts[slot]) + step for slot in slots]
        tokens_B = torch.tensor([out[slot][-1] for slot in slots])
        best_B = model.decode(tokens_B, torch.tensor(slots), torch.tensor(positions), cache).argmax(-1)
        for slot, token in zip(slots, best_B.tolist(), strict=True):
            out[slot].append(token)
    return out


@pytest.fixture(scope="module")
def fixed() -> GPT:
    """A model for property tests, which may not use function-scoped fixtures."""
    torch.manual_seed(5)
    built = task(layers=2, d_model=32, heads=2, seq_len=16).build_model().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4)
    return built


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=2, max_size=6), data=st.data())
def test_tokens_are_the_same_alone_and_in_any_company(fixed: GPT, lengths: list[int], data: st.DataObject) -> None:
    slots = data.draw(st.permutations(range(8)))[: len(lengths)]
    prompts = {slot: sequence(length, seed=slot) for slot, length in zip(slots, lengths, strict=True)}
    together = generate(fixed, prompts, 10, fixed.new_cache(8, 64))
    for slot, tokens_T in prompts.items():
        assert generate(fixed, {0: tokens_T}, 10, fixed.new_cache(1, 64)) == {0: together[slot]}


def test_logits_do_not_move_with_the_company(model: GPT) -> None:
    cache = model.new_cache(8, 32)
    for slot in range(8):
        model.prefill(sequence(4 + slot, seed=slot), cache, slot, 0)
    tokens_B, positions = torch.arange(8), [4 + slot for slot in range(8)]
    all_rows = model.decode(tokens_B, list(range(8)), positions, cache)
    for slot in range(8):
        alone = model.decode(tokens_B[slot, None], [slot], [positions[slot]], cache)
        torch.testing.assert_close(alone[0], all_rows[slot], **_CLOSE)


def test_rows_together_equal_rows_one_by_one(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {slot: sequence(3 * slot + 1, seed=slot) for slot in (5, 0, 3)}
    one_by_one = generate(model, prompts, 20, model.new_cache(6, 64))
    monkeypatch.setattr(SlotCache, "_each_row", SlotCache._all_rows)
    assert generate(model, prompts, 20, model.new_cache(6, 64)) == one_by_one


@pytest.mark.parametrize("row_positions", [-1000, 1000])
def test_rows_of_a_range_of_slots_equal_rows_one_by_one(
    model: GPT, monkeypatch: pytest.MonkeyPatch, row_positions: int
) -> None:
    """Whichever way is cheaper: never the range, and always."""
    prompts = {slot: sequence(3 * slot + 1, seed=slot) for slot in (5, 0, 3, 7)}
    as_it_comes = generate(model, prompts, 8, model.new_cache(8, 64))
    monkeypatch.setattr(kv_cache, "_ROW_POSITIONS", row_positions)
    rows = model.new_cache(8, 64).rows([5, 0, 3, 7], [9, 9, 9, 9])
    assert (rows.together is not None) == (row_positions > 0)
    assert generate(model, prompts, 8, model.new_cache(8, 64)) == as_it_comes


def test_a_slot_used_before_holds_nothing_of_its_last_sequence(model: GPT) -> None:
    used, fresh = model.new_cache(2, 64), model.new_cache(2, 64)
    model.prefill(sequence(60, seed=3), used, 0, 0)
    prompt = {0: sequence(5, seed=4)}
    assert generate(model, prompt, 12, used) == generate(model, prompt, 12, fresh)


def test_parking_a_row_costs_it_nothing(model: GPT) -> None:
    tokens_T, cache = sequence(20, seed=6), model.new_cache(4, 32)
    full_TV = model(tokens_T[None])[0]
    model.prefill(tokens_T[:19], cache, 3, 0)
    for position in range(9):  # others go on while slot 3 is parked
        model.decode(torch.tensor([1, 2]), [0, 1], [position, position], cache)
    torch.testing.assert_close(model.decode(tokens_T[19, None], [3], [19], cache)[0], full_TV[19], **_CLOSE)


def test_a_cache_in_bf16_is_half_the_size_and_close(model: GPT) -> None:
    small, exact = model.new_cache(2, 32, torch.bfloat16), model.new_cache(2, 32)
    assert 2 * small.num_bytes == exact.num_bytes == 2 * 2 * 2 * 32 * 32 * 4
    tokens_T = sequence(10, seed=7)
    near, true = (model.prefill(tokens_T, cache, 0, 0) for cache in (small, exact))
    assert near.dtype == torch.float32
    assert float((near - true).abs().max()) < 0.05 * float(true.abs().max())


@pytest.mark.parametrize(
    ("slots", "positions", "message"),
    [
        ([0, 0], [3, 4], "must be distinct"),
        ([0, 4], [0, 0], "within 0..3"),
        ([-1, 1], [0, 0], "within 0..3"),
        ([0, 1], [0, 32], "within 1..32"),
        ([0, 1], [0, -1], "within 1..32"),
    ],
)
def test_rows_that_would_mix_up_sequences_are_refused(
    model: GPT, slots: list[int], positions: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.decode(torch.tensor([1, 2]), slots, positions, model.new_cache(4, 32))


def test_a_model_in_training_mode_does_not_generate(model: GPT) -> None:
    cache = model.new_cache(1, 8)
    with pytest.raises(ValueError, match="no token"):
        model.prefill(torch.empty(0, dtype=torch.int64), cache, 0, 0)
    with pytest.raises(ValueError, match="training mode"):
        model.train().prefill(torch.tensor([1]), cache, 0, 0)
    with pytest.raises(ValueError, match="at least one slot"):
        model.new_cache(0, 8)
