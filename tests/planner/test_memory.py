"""Memory of a device: ZeRO's published figures, and what falls or rises with what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.memory import (
    Fit,
    Sharding,
    ZeroStage,
    activations,
    fit,
    largest_micro_batch,
    least_world_size,
    memory,
    usable_bytes,
)
from orchestrator.planner.model import Model, gpt

GB = 1e9
STAGES: tuple[ZeroStage, ...] = (0, 1, 2, 3)
PAPER = Model(num_params=7_500_000_000, seq_len=1024)
SMALL = gpt(12, 768, 512, vocabulary=50_368)


@pytest.mark.parametrize(("stage", "published_gb"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_paper_figure_1_comes_out(stage: ZeroStage, published_gb: float) -> None:
    held = memory(PAPER, Sharding(zero_stage=stage), world_size=64, micro_batch_size=1)
    assert (held.state_bytes - held.gathered_bytes) / GB == pytest.approx(published_gb, abs=0.05)


def test_gpt3_weights_are_350_gb() -> None:
    held = memory(Model(num_params=175 * 10**9, seq_len=2048), Sharding(zero_stage=0), world_size=1, micro_batch_size=1)
    assert held.params_bytes == 350e9


def test_activations_of_a_layer_are_those_of_the_paper() -> None:
    # Korthikanti et al., equation 1: s b d (34 + 5 a s / d) a layer, GPT-3: a = 96, s = 2048, d = 12288.
    model = Model(num_params=1, seq_len=2048, layers=96, d_model=12288, heads=96)
    paper = Sharding(attention_stored=True, dropout=True)
    assert activations(model, paper, 1) / 96 / (2048 * 12288) == pytest.approx(34 + 80)
    assert activations(model, Sharding(dropout=True), 1) / 96 / (2048 * 12288) == pytest.approx(34)
    assert activations(model, Sharding(), 1) / 96 / (2048 * 12288) == pytest.approx(32)


@given(st.sampled_from(STAGES), st.sampled_from(["bf16", "fp32"]), st.integers(1, 300), st.integers(1, 64))
def test_memory_falls_with_stage_and_workers_and_rises_with_the_micro_batch(stage, precision, world_size, size) -> None:
    def total(stage: ZeroStage, world_size: int, size: int, **more: bool) -> float:
        sharding = Sharding(zero_stage=stage, precision=precision, **more)
        return memory(SMALL, sharding, world_size=world_size, micro_batch_size=size).total_bytes

    here = total(stage, world_size, size)
    assert stage == 3 or total(STAGES[stage + 1], world_size, size) <= here * (1 + 1e-12)
    assert total(stage, world_size + 1, size) <= here * (1 + 1e-12)
    assert total(stage, world_size, size + 1) > here
    assert total(stage, world_size, size, recompute_activations=True) < here
    assert total(stage, world_size, size, attention_stored=True) > here


def test_only_what_exceeds_the_estimate_s_own_error_is_sure_not_to_fit() -> None:
    held = memory(SMALL, Sharding(), world_size=8, micro_batch_size=16)
    at = {share: fit(held, held.total_bytes / share) for share in (0.5, 0.9, 0.91, 1.19, 1.21)}
    assert list(at.values()) == [Fit.YES, Fit.YES, Fit.TIGHT, Fit.TIGHT, Fit.NO]
    # State is counted exactly: more of it than there is memory never fits.
    alone = memory(PAPER, Sharding(), world_size=1, micro_batch_size=1)
    assert fit(alone, alone.total_bytes / 1.05) is Fit.NO


def test_alone_no_stage_saves_anything() -> None:
    held = {memory(SMALL, Sharding(zero_stage=stage), world_size=1, micro_batch_size=2).total_bytes for stage in STAGES}
    assert len(held) == 1


@given(st.sampled_from(STAGES), st.integers(1, 200), st.floats(2e9, 80e9))
def test_the_largest_micro_batch_fits_and_one_more_does_not(stage: ZeroStage, world_size: int, device: float) -> None:
    sharding = Sharding(zero_stage=stage)
    largest = largest_micro_batch(SMALL, sharding, world_size=world_size, memory_bytes=device)

    def total(size: int) -> float:
        return memory(SMALL, sharding, world_size=world_size, micro_batch_size=size).total_bytes

    assert largest == 0 or total(largest) <= usable_bytes(device) * (1 + 1e-9)
    assert total(largest + 1) > usable_bytes(device) * (1 - 1e-9)


def test_a_model_that_is_too_large_for_any_micro_batch_has_none() -> None:
    huge = gpt(96, 12288, 2048)
    assert largest_micro_batch(huge, Sharding(zero_stage=2), world_size=200, memory_bytes=80e9) == 0
    with pytest.raises(ValueError, match="layers and d_model"):
        largest_micro_batch(PAPER, Sharding(), world_size=1, memory_bytes=80e9)


@pytest.mark.parametrize("device_gb", [16, 40, 80])
def test_the_fewest_devices_fit_and_one_less_does_not(device_gb: int) -> None:
    sharding = Sharding(zero_stage=3)
    least = least_world_size(PAPER, sharding, micro_batch_size=1, memory_bytes=device_gb * GB, most=1000)
    assert least is not None

    def total(world_size: int) -> float:
        return memory(PAPER, sharding, world_size=world_size, micro_batch_size=1).total_bytes

    assert total(least) <= usable_bytes(device_gb * GB)
    assert least == 1 or total(least - 1) > usable_bytes(device_gb * GB)


def test_what_fits_on_no_allowed_number_of_devices_is_none() -> None:
    assert least_world_size(PAPER, Sharding(zero_stage=1), micro_batch_size=1, memory_bytes=16 * GB, most=1000) is None


def test_world_sizes_and_micro_batches_below_one_are_refused() -> None:
    for world_size, size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            memory(SMALL, Sharding(), world_size=world_size, micro_batch_size=size)
