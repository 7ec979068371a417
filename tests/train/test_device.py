"""The device is chosen from names and files; nothing is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.train.device import choose_accelerator
from jobs.train.rank_metrics import StepCost, device_peak_flops_per_s


@pytest.mark.parametrize(
    ("env", "torch_has_cuda", "devices", "chosen"),
    [
        ({}, True, ["nvidia0"], "cuda"),
        ({}, True, ["nvidia12", "nvidiactl"], "cuda"),
        ({}, True, ["nvidiactl"], "cpu"),
        ({}, False, ["nvidia0"], "cpu"),
        ({"CUDA_VISIBLE_DEVICES": ""}, True, ["nvidia0"], "cpu"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, True, ["nvidia0"], "cpu"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True, ["nvidia0"], "cuda"),
        ({"DS_ACCELERATOR": "cpu"}, True, ["nvidia0"], "cpu"),
        ({"DS_ACCELERATOR": "cuda"}, False, [], "cuda"),
    ],
)
def test_choice(tmp_path: Path, env: dict[str, str], torch_has_cuda: bool, devices: list[str], chosen: str) -> None:
    for name in devices:
        (tmp_path / name).touch()
    assert choose_accelerator(env, torch_has_cuda=torch_has_cuda, dev=tmp_path) == chosen


def test_an_unknown_accelerator_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tpu'"):
        choose_accelerator({"DS_ACCELERATOR": "tpu"}, torch_has_cuda=False, dev=tmp_path)


def test_mfu_is_the_share_of_the_peak_and_0_where_that_is_unknown() -> None:
    h100 = StepCost(
        samples=10,
        tokens_per_sample=100,
        flops_per_sample=989e12,
        world_size=2,
        peak_flops_per_s=device_peak_flops_per_s("NVIDIA H100 80GB HBM3"),
    )
    assert h100.mfu(step_s=10.0) == pytest.approx(0.5)
    assert h100.tokens == 1000
    assert device_peak_flops_per_s("cpu") == 0.0
    assert device_peak_flops_per_s("NVIDIA H100 PCIe") < device_peak_flops_per_s("NVIDIA H100 NVL")
