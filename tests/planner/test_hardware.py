"""The table of devices is found by the names that people write."""

from __future__ import annotations

import pytest

from orchestrator.planner.hardware import DEVICES, Device, find_device


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("h100", "H100-80GB"),
        ("H100 SXM5 80GB", "H100-80GB"),
        ("NVIDIA A100 SXM4 40GB", "A100-40GB"),
        ("a100_80gb", "A100-80GB"),
        ("A100-80GB SXM", "A100-80GB"),
        ("A100-PCIe-40GB", "A100-PCIe-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Google TPU v5e", "TPUv5e"),
        ("AMD MI300X", "MI300X"),
    ],
)
def test_a_device_is_found_however_it_is_written(written: str, name: str) -> None:
    assert find_device(written).name == name


def test_every_device_is_found_by_its_own_name() -> None:
    assert [find_device(device.name) for device in DEVICES] == list(DEVICES)


def test_an_unknown_device_names_those_that_are_alike() -> None:
    with pytest.raises(ValueError, match=r"'H1000'.*H100-80GB"):
        find_device("H1000")


def test_figures_of_a_device_are_positive_and_a_missing_peak_is_said() -> None:
    with pytest.raises(ValueError, match="memory_bytes is 0"):
        Device(
            name="x",
            bf16_flops_per_s=1.0,
            fp32_flops_per_s=None,
            memory_bytes=0,
            memory_bytes_per_s=None,
            tdp_w=None,
        )
    with pytest.raises(ValueError, match="fp32 peak of TPUv4"):
        find_device("tpuv4").peak_flops_per_s("fp32")


def test_the_usual_price_lies_between_the_list_prices() -> None:
    price = find_device("h100").price
    assert price is not None
    assert (price.low, price.high) == (2.45, 12.29)
    assert price.low < price.typical < price.high
    assert find_device("b200").price is None
