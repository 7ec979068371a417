"""Serving's roofline: the least time of one token, bound by memory or by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.planner.hardware import Device, Precision
from orchestrator.planner.model import Model
from orchestrator.planner.values import at_least_one, not_negative


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """One token for each of a batch of sequences: the least time, and which of the two binds."""

    seconds: float
    memory_s: float
    compute_s: float

    @property
    def memory_bound(self) -> bool:
        return self.memory_s >= self.compute_s


def kv_cache_bytes(model: Model, context_tokens: int, value_bytes: float, *, kv_share: float = 1.0) -> float:
    """Keys and values of one sequence: 2 L d a token. `kv_share` = key-value heads over heads (grouped queries)."""
    return 2.0 * model.layers * model.d_model * not_negative("context_tokens", context_tokens) * value_bytes * kv_share


def decode_step(
    model: Model,
    device: Device,
    *,
    batch: int = 1,
    context_tokens: int = 0,
    weight_bytes: float = 2.0,
    devices: int = 1,
    precision: Precision = "bf16",
) -> Decode:
    """max((weights + KV) / bandwidth, FLOPs / peak) over `devices` that split the model evenly.

    A bound: kernels, communication and sampling come on top. Weights are read once for the whole batch.
    Source: the roofline (Williams et al., 2009), as Pope et al. (2211.05102) apply it to decoding.
    Raises: ValueError where the device's memory bandwidth is not published.
    """
    at_least_one("batch", batch)
    at_least_one("devices", devices)
    if device.memory_bytes_per_s is None:
        raise ValueError(f"the memory bandwidth of {device.name} is not published; give one")
    read = model.num_params * weight_bytes + batch * kv_cache_bytes(model, context_tokens, 2.0)
    flops = batch * (2.0 * model.num_params + 4.0 * model.layers * model.d_model * context_tokens)
    memory_s = read / (devices * device.memory_bytes_per_s)
    compute_s = flops / (devices * device.peak_flops_per_s(precision))
    return Decode(seconds=max(memory_s, compute_s), memory_s=memory_s, compute_s=compute_s)


def devices_for(model: Model, device: Device, *, weight_bytes: float = 2.0, usable: float = 0.9) -> int:
    """The fewest devices whose memory holds the weights."""
    return math.ceil(model.num_params * weight_bytes / (usable * device.memory_bytes))
