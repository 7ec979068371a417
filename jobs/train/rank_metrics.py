"""What a step was worth: tokens, FLOPs and the share of the devices' peak. Numbers in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

# Dense bf16 tensor-core peaks in FLOP/s, from the vendor's data sheets; matched against the device's name.
_PEAK_FLOPS_PER_S = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}


def device_peak_flops_per_s(device_name: str) -> float:
    """Peak of one device by its name; 0 where it is not known, and for processors."""
    return next((peak for name, peak in _PEAK_FLOPS_PER_S.items() if name in device_name), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What one optimizer step of the whole group computes, and on what."""

    samples: int
    tokens_per_sample: int
    flops_per_sample: float
    world_size: int
    peak_flops_per_s: float

    @property
    def tokens(self) -> int:
        return self.samples * self.tokens_per_sample

    def mfu(self, step_s: float) -> float:
        """Model FLOPs utilisation, 0..1; 0 where the peak is not known. Recomputation is not counted."""
        available = self.peak_flops_per_s * self.world_size * step_s
        return self.samples * self.flops_per_sample / available if available > 0 else 0.0
