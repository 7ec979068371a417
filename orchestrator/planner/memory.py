"""Memory of one device in training: parameters, gradients, optimizer state by ZeRO stage, and activations.

All in bytes. What a framework holds besides (context, communication buffers, fragmentation) is `reserved_share`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.planner.hardware import Precision
from orchestrator.planner.model import Model
from orchestrator.planner.values import at_least_one

ZeroStage = Literal[0, 1, 2, 3]
RESERVED_SHARE = 0.10
"""Part of a device's memory that is left alone: context, communication buffers, fragmentation. An assumption."""
TIGHT_SHARE = 1.2
"""Up to here of a device's memory an estimate may still run: of 108 MPT runs, all of which ran, some come out at 1.1 of
the memory that they had (tests/benchmarks/planner)."""
_LIVE_PARAMS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters: gathered parameters that may be whole at once


class Fit(enum.StrEnum):
    """Whether a device's memory is enough. `tight` = by less than the estimate is good for, either way."""

    YES = "yes"
    TIGHT = "tight"
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How state is kept: ZeRO stage, precision of parameters and gradients; Adam, its state in fp32 always."""

    zero_stage: ZeroStage = 2
    precision: Precision = "bf16"
    recompute_activations: bool = False
    dropout: bool = False
    attention_stored: bool = False
    """Whether the s x s scores of every head are kept for the backward pass; a fused attention keeps none."""

    @property
    def value_bytes(self) -> int:
        """Of one parameter or gradient."""
        return 2 if self.precision == "bf16" else 4

    @property
    def optimizer_bytes(self) -> int:
        """Adam's of one parameter: two moments, and in bf16 an fp32 master copy (K = 12 in the paper)."""
        return 12 if self.precision == "bf16" else 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one device holds, by what it is for."""

    params_bytes: float
    grads_bytes: float
    optimizer_bytes: float
    gathered_bytes: float
    activation_bytes: float

    @property
    def state_bytes(self) -> float:
        """All that does not depend on the micro-batch."""
        return self.params_bytes + self.grads_bytes + self.optimizer_bytes + self.gathered_bytes

    @property
    def total_bytes(self) -> float:
        return self.state_bytes + self.activation_bytes


def memory(model: Model, sharding: Sharding, *, world_size: int, micro_batch_size: int) -> Memory:
    """What one of `world_size` devices holds.

    Holds: never grows with the stage or the world size, nor falls with the micro-batch (tests/planner).
    Source: ZeRO (1910.02054), figure 1: 2N + 2N + KN, divided by the world size from the stage on that shards it.
    """
    at_least_one("world_size", world_size)
    stage, count = sharding.zero_stage, model.num_params
    shared = [count / world_size if stage >= least else float(count) for least in (3, 2, 1)]
    # Whole parameters live beside their shards while a stage-3 pass uses them; alone, a device gathers nothing.
    gathered = min(count - shared[0], _LIVE_PARAMS) if stage == 3 else 0.0
    return Memory(
        params_bytes=shared[0] * sharding.value_bytes,
        grads_bytes=shared[1] * sharding.value_bytes,
        optimizer_bytes=shared[2] * sharding.optimizer_bytes,
        gathered_bytes=gathered * sharding.value_bytes,
        activation_bytes=activations(model, sharding, micro_batch_size),
    )


def activations(model: Model, sharding: Sharding, micro_batch_size: int) -> float:
    """Bytes kept for the backward pass of one micro-batch of b samples; 0 where the model's shape is not known.

    A layer keeps s b d (34 + 5 a s / d) bytes at 2 bytes a value, 32 without dropout's two masks, and the second term
    only where attention scores are stored; with full recomputation 2 s b d a layer, and one layer's rest at a time.
    Logits: fp32, and their gradient.
    Source: Korthikanti et al. (2205.05198), equations 1 and 2 and section 5.
    """
    values = at_least_one("micro_batch_size", micro_batch_size) * model.seq_len * model.d_model
    scale = sharding.value_bytes / 2
    scores = 5.0 * model.heads * model.seq_len / model.d_model if sharding.attention_stored and model.d_model else 0.0
    layer = values * ((34.0 if sharding.dropout else 32.0) + scores) * scale
    kept = model.layers * 2.0 * values * scale + layer if sharding.recompute_activations else model.layers * layer
    return kept + 8.0 * micro_batch_size * model.seq_len * model.vocabulary


def fit(held: Memory, memory_bytes: float) -> Fit:
    """Whether it fits. State is counted exactly, activations are not: only what exceeds both is sure not to fit."""
    if held.total_bytes <= usable_bytes(memory_bytes):
        return Fit.YES
    sure = held.total_bytes > TIGHT_SHARE * memory_bytes or held.state_bytes > memory_bytes
    return Fit.NO if sure else Fit.TIGHT


def usable_bytes(memory_bytes: float, reserved_share: float = RESERVED_SHARE) -> float:
    """What of a device's memory is there for state and activations."""
    return memory_bytes * (1.0 - reserved_share)


def largest_micro_batch(model: Model, sharding: Sharding, *, world_size: int, memory_bytes: float) -> int:
    """The most samples of one pass that fit; 0 where the state alone does not. Needs a known shape.

    Raises: ValueError where the model's shape is not known: nobody can say then what a sample takes.
    """
    if not model.shape_known:
        raise ValueError("layers and d_model are not known; what a sample takes follows from them")
    one = memory(model, sharding, world_size=world_size, micro_batch_size=1)
    left = usable_bytes(memory_bytes) - one.state_bytes
    return max(0, math.floor(left / one.activation_bytes))


def least_world_size(
    model: Model, sharding: Sharding, *, micro_batch_size: int, memory_bytes: float, most: int
) -> int | None:
    """The fewest devices, up to `most`, on which it fits; None where it fits on none of these sizes."""

    def fits(world_size: int) -> bool:
        held = memory(model, sharding, world_size=world_size, micro_batch_size=micro_batch_size)
        return held.total_bytes <= usable_bytes(memory_bytes)

    # Stage 3's gathered parameters grow as shards shrink, but by no more: the total never grows with the world size.
    if not fits(at_least_one("most", most)):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low
