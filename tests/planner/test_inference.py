"""Serving's roofline: which of memory and arithmetic binds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.hardware import Device, find_device
from orchestrator.planner.inference import decode_step, devices_for, kv_cache_bytes
from orchestrator.planner.model import Model

LLAMA = Model(num_params=6_700_000_000, seq_len=2048, layers=32, d_model=4096, heads=32)


@pytest.mark.parametrize(
    ("device", "published_ms"), [("a100", 13.4 / 2.039), ("h100", 13.4 / 3.35), ("h200", 13.4 / 4.8)]
)
def test_one_sequence_reads_all_weights_for_every_token(device: str, published_ms: float) -> None:
    found = decode_step(LLAMA, find_device(device))
    assert found.seconds * 1e3 == pytest.approx(published_ms, rel=1e-3)
    assert found.memory_bound


def test_a_large_batch_is_bound_by_arithmetic() -> None:
    found = decode_step(LLAMA, find_device("a100"), batch=512)
    assert not found.memory_bound
    assert found.seconds == pytest.approx(512 * 2 * 6.7e9 / 312e12)


def test_the_cache_of_a_sequence_is_two_vectors_a_layer_and_token() -> None:
    assert kv_cache_bytes(LLAMA, 2048, 2) == 2 * 32 * 4096 * 2048 * 2
    assert kv_cache_bytes(LLAMA, 2048, 2, kv_share=1 / 8) == kv_cache_bytes(LLAMA, 2048, 2) / 8
    with_cache = decode_step(LLAMA, find_device("a100"), batch=16, context_tokens=2048)
    assert with_cache.memory_s > decode_step(LLAMA, find_device("a100"), batch=16).memory_s


@given(st.integers(1, 64), st.integers(0, 8192), st.integers(1, 8))
def test_more_sequences_or_context_never_help_and_devices_do(batch: int, context: int, devices: int) -> None:
    def seconds(batch: int, context: int, devices: int) -> float:
        return decode_step(LLAMA, find_device("h100"), batch=batch, context_tokens=context, devices=devices).seconds

    here = seconds(batch, context, devices)
    assert seconds(batch + 1, context, devices) >= here
    assert seconds(batch, context + 1, devices) >= here
    assert seconds(batch, context, devices + 1) < here


def test_weights_are_spread_over_as_many_devices_as_hold_them() -> None:
    assert devices_for(Model(num_params=175 * 10**9, seq_len=1), find_device("a100")) == 5
    assert devices_for(LLAMA, find_device("a100")) == 1


def test_a_device_without_a_bandwidth_and_an_empty_batch_are_refused() -> None:
    bare = Device(
        name="bare", bf16_flops_per_s=1e12, fp32_flops_per_s=None, memory_bytes=1e9, memory_bytes_per_s=None, tdp_w=None
    )
    with pytest.raises(ValueError, match="bandwidth of bare"):
        decode_step(LLAMA, bare)
    with pytest.raises(ValueError, match="batch is 0"):
        decode_step(LLAMA, find_device("h100"), batch=0)
