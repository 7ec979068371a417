"""Iterations of tensor- and pipeline-parallel runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.planner.hardware import Device, find_device
from orchestrator.planner.pipeline import Layout, iteration

A100 = find_device("a100")
GPT3 = Layout(
    layers=96,
    d_model=12288,
    heads=96,
    seq_len=2048,
    vocabulary=51_200,
    tensor=8,
    pipeline=8,
    data=1,
    global_batch_size=64,
    micro_batch_size=1,
    interleaved=3,
)


def test_gpt3_on_64_devices_takes_what_was_measured() -> None:
    # Korthikanti et al., table 5: 13.75 s; 0.67 is the mean of the three other models' (benchmarks.planner).
    assert iteration(GPT3, A100).seconds(0.67) == pytest.approx(13.75, rel=0.03)


def test_efficiency_and_time_are_inverse() -> None:
    parts = iteration(GPT3, A100)
    assert parts.matmul_efficiency(parts.seconds(0.63)) == pytest.approx(0.63)
    with pytest.raises(ValueError, match="must be above 0 and"):
        parts.matmul_efficiency(parts.matmul_at_peak_s)


def test_the_bubble_shrinks_with_micro_batches_and_chunks() -> None:
    assert GPT3.bubble == pytest.approx(7 / (64 * 3))
    assert replace(GPT3, interleaved=1).bubble == pytest.approx(7 / 64)
    assert replace(GPT3, global_batch_size=128).bubble == pytest.approx(GPT3.bubble / 2)
    assert replace(GPT3, pipeline=1).bubble == 0.0


def test_recomputation_costs_about_a_third() -> None:
    full = iteration(replace(GPT3, full_recomputation=True), A100).seconds(0.66)
    assert 1.25 < full / iteration(GPT3, A100).seconds(0.66) < 1.4


def test_more_replicas_take_fewer_micro_batches_each() -> None:
    twice = replace(GPT3, data=2)
    assert twice.num_micro_batches == 32
    assert 0.5 < iteration(twice, A100).seconds(0.66) / iteration(GPT3, A100).seconds(0.66) < 0.56


def test_a_batch_that_cannot_be_cut_and_a_bare_device_are_refused() -> None:
    with pytest.raises(ValueError, match=r"global_batch_size is 64.*multiple"):
        replace(GPT3, data=3)
    with pytest.raises(ValueError, match="tensor is 0"):
        replace(GPT3, tensor=0)
    bare = Device(
        name="bare", bf16_flops_per_s=1e12, fp32_flops_per_s=None, memory_bytes=1e9, memory_bytes_per_s=None, tdp_w=None
    )
    with pytest.raises(ValueError, match="bandwidth of bare"):
        iteration(GPT3, bare)
