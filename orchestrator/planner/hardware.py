"""A small table of accelerators: peak, memory, bandwidth, power and price. Facts, each with where it is published.

Peaks are dense (no sparsity), bf16 (fp16 where a device has no bf16) with fp32 accumulation. TDP is what the vendor
states for the device alone; what a whole system draws for one device is a range in `bill`. Prices are the lowest and
highest on-demand list prices in Epoch AI's hardware table (CC-BY 4.0, epoch.ai/data, 2025): give your own where you
know it. A device that is not here is described by hand (`Device(...)`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.planner.values import Range, positive

Precision = Literal["fp32", "bf16"]
_GB = 10**9
_T = 1e12
_IGNORED = re.compile(r"nvidia|google|amd|geforce|sxm\d?|[^a-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One kind of accelerator. None where its vendor publishes no figure.

    Raises: ValueError for a figure that is not positive.
    """

    name: str
    bf16_flops_per_s: float
    fp32_flops_per_s: float | None
    memory_bytes: float
    memory_bytes_per_s: float | None
    tdp_w: float | None
    usd_per_hour: tuple[float, float] | None = None
    also: tuple[str, ...] = ()
    source: str = "given by hand"

    def __post_init__(self) -> None:
        positive("bf16_flops_per_s", self.bf16_flops_per_s)
        positive("memory_bytes", self.memory_bytes)
        for field in ("fp32_flops_per_s", "memory_bytes_per_s", "tdp_w"):
            if getattr(self, field) is not None:
                positive(field, getattr(self, field))

    def peak_flops_per_s(self, precision: Precision) -> float:
        """Peak in this precision. Raises: ValueError where it is not published."""
        peak = self.bf16_flops_per_s if precision == "bf16" else self.fp32_flops_per_s
        if peak is None:
            raise ValueError(f"no {precision} peak of {self.name} is published; give one")
        return peak

    @property
    def price(self) -> Range | None:
        """List prices; typical is their geometric mean, as they differ by factors and not by dollars."""
        if self.usd_per_hour is None:
            return None
        low, high = self.usd_per_hour
        return Range(low, math.sqrt(low * high), high)


# fmt: off
DEVICES: tuple[Device, ...] = (
    Device(name="V100-16GB", bf16_flops_per_s=125 * _T, fp32_flops_per_s=15.7 * _T, memory_bytes=16 * _GB,
           memory_bytes_per_s=0.897 * _T, tdp_w=300, usd_per_hour=(0.19, 3.46),
           source="NVIDIA V100 datasheet (SXM2; the peak is fp16)"),
    Device(name="V100-32GB", bf16_flops_per_s=125 * _T, fp32_flops_per_s=15.7 * _T, memory_bytes=32 * _GB,
           memory_bytes_per_s=0.898 * _T, tdp_w=300, usd_per_hour=(0.19, 3.46), also=("v100",),
           source="NVIDIA V100 datasheet (SXM2; the peak is fp16)"),
    Device(name="A100-PCIe-40GB", bf16_flops_per_s=312 * _T, fp32_flops_per_s=19.5 * _T, memory_bytes=40 * _GB,
           memory_bytes_per_s=1.56 * _T, tdp_w=250, usd_per_hour=(1.29, 3.67), also=("a100pcie",),
           source="NVIDIA A100 datasheet"),
    Device(name="A100-40GB", bf16_flops_per_s=312 * _T, fp32_flops_per_s=19.5 * _T, memory_bytes=40 * _GB,
           memory_bytes_per_s=1.56 * _T, tdp_w=400, usd_per_hour=(1.29, 4.10),
           source="NVIDIA A100 datasheet (SXM4)"),
    Device(name="A100-80GB", bf16_flops_per_s=312 * _T, fp32_flops_per_s=19.5 * _T, memory_bytes=80 * _GB,
           memory_bytes_per_s=2.039 * _T, tdp_w=400, usd_per_hour=(1.57, 5.12), also=("a100",),
           source="NVIDIA A100 datasheet (SXM4)"),
    Device(name="H100-PCIe-80GB", bf16_flops_per_s=756 * _T, fp32_flops_per_s=51.2 * _T, memory_bytes=80 * _GB,
           memory_bytes_per_s=2.04 * _T, tdp_w=350, usd_per_hour=(1.98, 4.29), also=("h100pcie",),
           source="NVIDIA H100 datasheet"),
    Device(name="H100-80GB", bf16_flops_per_s=989.4 * _T, fp32_flops_per_s=66.9 * _T, memory_bytes=80 * _GB,
           memory_bytes_per_s=3.35 * _T, tdp_w=700, usd_per_hour=(2.45, 12.29), also=("h100", "h800"),
           source="NVIDIA H100 datasheet (SXM5)"),
    Device(name="H200", bf16_flops_per_s=989.4 * _T, fp32_flops_per_s=66.9 * _T, memory_bytes=141 * _GB,
           memory_bytes_per_s=4.8 * _T, tdp_w=700, usd_per_hour=(10.60, 10.60), also=("h200141gb",),
           source="NVIDIA H200 datasheet (SXM)"),
    Device(name="B200", bf16_flops_per_s=2250 * _T, fp32_flops_per_s=62.1 * _T, memory_bytes=192 * _GB,
           memory_bytes_per_s=8.0 * _T, tdp_w=1000, source="NVIDIA Blackwell architecture brief"),
    Device(name="RTX-4090", bf16_flops_per_s=165.2 * _T, fp32_flops_per_s=82.6 * _T, memory_bytes=24 * _GB,
           memory_bytes_per_s=1.008 * _T, tdp_w=450, also=("4090",),
           source="NVIDIA Ada whitepaper (fp32 accumulation; half of the fp16-accumulate figure)"),
    Device(name="RTX-3090", bf16_flops_per_s=71 * _T, fp32_flops_per_s=35.6 * _T, memory_bytes=24 * _GB,
           memory_bytes_per_s=0.936 * _T, tdp_w=350, also=("3090",), source="NVIDIA GA102 whitepaper"),
    Device(name="MI300X", bf16_flops_per_s=1307.4 * _T, fp32_flops_per_s=163.4 * _T, memory_bytes=192 * _GB,
           memory_bytes_per_s=5.3 * _T, tdp_w=750, source="AMD Instinct MI300X data sheet"),
    Device(name="TPUv3", bf16_flops_per_s=123 * _T, fp32_flops_per_s=None, memory_bytes=32 * _GB,
           memory_bytes_per_s=0.9 * _T, tdp_w=220, source="Google Cloud TPU documentation"),
    Device(name="TPUv4", bf16_flops_per_s=275 * _T, fp32_flops_per_s=None, memory_bytes=32 * _GB,
           memory_bytes_per_s=1.2 * _T, tdp_w=170, usd_per_hour=(3.22, 3.22), source="Google Cloud TPU documentation"),
    Device(name="TPUv5e", bf16_flops_per_s=197 * _T, fp32_flops_per_s=None, memory_bytes=16 * _GB,
           memory_bytes_per_s=0.819 * _T, tdp_w=140, usd_per_hour=(1.56, 1.56),
           source="Google Cloud TPU documentation"),
)
# fmt: on


def _key(name: str) -> str:
    return _IGNORED.sub("", name.lower())


def _names() -> Iterator[tuple[str, Device]]:
    for device in DEVICES:
        yield from ((_key(name), device) for name in (device.name, *device.also))


_BY_NAME = dict(_names())


def find_device(name: str) -> Device:
    """The device of this name; case, dashes, vendor and form factor (`H100 SXM5 80GB`) make no difference.

    Raises: ValueError for an unknown one, naming those that are alike.
    """
    if _key(name) in _BY_NAME:
        return _BY_NAME[_key(name)]
    near = [_BY_NAME[key].name for key in difflib.get_close_matches(_key(name), _BY_NAME, n=3, cutoff=0.6)]
    known = ", ".join(dict.fromkeys(near)) or ", ".join(device.name for device in DEVICES)
    raise ValueError(f"device is {name!r}; it must be one of the table, such as {known}")
