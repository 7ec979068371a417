"""FLOPs of a run, and MFU and HFU from tokens per second and back.

MFU counts the FLOPs that the model needs, HFU those that the hardware makes (recomputation too): 126 TFLOP/s on an
A100 is quoted as 52 % elsewhere and is HFU 0.40, MFU 0.30. Both hold within steps. What a whole job keeps of its paid
time is `training_goodput`, a factor of its own (PaLM: 0.462 within steps, 0.304 over all chip-hours).
"""

from __future__ import annotations

from orchestrator.planner.values import Range, fraction, positive

MFU = Range(0.30, 0.45, 0.57)
"""Within steps, where nobody measured: of 104 bf16 rows from 125M to 70B parameters (MosaicML llm-foundry,
training/benchmarking) H100's 10th percentile, between the medians of H100 (0.40) and A100 (0.51 and 0.54), and the
90th percentile of all. All of them lie in 0.26 to 0.64."""
GOODPUT = Range(0.66, 0.90, 1.0)
"""Share of paid time in steps that survived, where nobody measured: PaLM's 0.304/0.462 to a run without a stall."""


def training_flops(num_params: float, num_tokens: float) -> float:
    """C = 6 N D. Source: Kaplan et al. (2001.08361), section 2.1; attention is left out."""
    return 6.0 * positive("num_params", num_params) * positive("num_tokens", num_tokens)


def utilisation(
    flops_per_token: float, tokens_per_s: float, devices: int, peak_flops_per_s: float, *, recomputed: float = 1.0
) -> float:
    """MFU, or HFU with `recomputed` (hardware FLOPs over model FLOPs, 4/3 for full recomputation)."""
    made = positive("flops_per_token", flops_per_token) * positive("tokens_per_s", tokens_per_s) * recomputed
    return made / (positive("devices", devices) * positive("peak_flops_per_s", peak_flops_per_s))


def tokens_per_s(flops_per_token: float, mfu: float, devices: int, peak_flops_per_s: float) -> float:
    """The inverse of `utilisation`."""
    rate = fraction("mfu", mfu) * positive("devices", devices) * positive("peak_flops_per_s", peak_flops_per_s)
    return rate / positive("flops_per_token", flops_per_token)


def device_hours(flops: float, peak_flops_per_s: float, mfu: Range | float, goodput: Range | float = 1.0) -> Range:
    """Devices x time that `flops` take; wide where utilisation and goodput are guesses."""
    rate = _share(mfu) * _share(goodput) * positive("peak_flops_per_s", peak_flops_per_s)
    return Range(flops, flops, flops) / rate / 3600.0


def flops_of(hours: Range | float, peak_flops_per_s: float, mfu: Range | float, goodput: Range | float = 1.0) -> Range:
    """The inverse of `device_hours`: FLOPs that so many device-hours make."""
    return _share(mfu) * _share(goodput) * positive("peak_flops_per_s", peak_flops_per_s) * hours * 3600.0


def _share(value: Range | float) -> Range:
    if isinstance(value, Range):
        fraction("share", value.high)
        return value
    share = fraction("share", value)
    return Range(share, share, share)
