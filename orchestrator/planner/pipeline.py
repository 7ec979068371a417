"""Iteration time under tensor and pipeline parallelism, for published runs to be compared with.

Tideline's own jobs are data-parallel (`step_time`). Runs that publish iteration times split layers over 8 devices of a
node and stages over nodes; this is the arithmetic of that layout, with one number that is measured: the share of the
peak that matrix products reach on a system (`matmul_efficiency`). A micro-batch of b samples costs, on each device:

    matrices  24 b s d^2 a layer forward, twice that backward, plus 4 b s^2 d of attention, over t devices
    memory    two norms 16, dropout and residuals 5, GELU of 4 d 16: 37 s b d bytes; softmax and its dropout: 11 a s^2 b
              bytes (our count of reads and writes at 2 bytes a value); over t
    tensor    4 all-reduces of 2 s b d bytes a layer (6 with full recomputation), 2 (t-1)/t each, over NVLink
    bubble    (p-1) / (m v) of the whole, with m micro-batches, p stages, v chunks a stage

Sources: Megatron (2104.04473), sections 2 and 3; Korthikanti et al. (2205.05198), sections 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planner.hardware import Device
from orchestrator.planner.values import at_least_one, fraction, positive

NVLINK_BYTES_PER_S = 300e9
"""One direction of an A100's NVLink (600 GB/s both ways: NVIDIA A100 datasheet)."""
MEMORY_EFFICIENCY = 0.8
NVLINK_EFFICIENCY = 0.8
"""Assumptions, the same for every run; neither was fitted."""
_OPTIMIZER_BYTES = 30  # a parameter's in one Adam step: reads of gradient, master copy, moments; writes of all and bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A GPT and how its training is cut up. `interleaved` are chunks of layers on each stage."""

    layers: int
    d_model: int
    heads: int
    seq_len: int
    vocabulary: int
    tensor: int
    pipeline: int
    data: int
    global_batch_size: int
    micro_batch_size: int
    interleaved: int = 1
    full_recomputation: bool = False

    def __post_init__(self) -> None:
        for field in self.__slots__:
            if field != "full_recomputation":
                at_least_one(field, getattr(self, field))
        if self.global_batch_size % (self.data * self.micro_batch_size):
            raise ValueError(
                f"global_batch_size is {self.global_batch_size}; it must be a multiple of data x micro_batch_size "
                f"({self.data * self.micro_batch_size})"
            )

    @property
    def num_micro_batches(self) -> int:
        """m, of one pipeline in one iteration."""
        return self.global_batch_size // (self.data * self.micro_batch_size)

    @property
    def bubble(self) -> float:
        """Idle time of a stage over its busy time."""
        return (self.pipeline - 1) / (self.num_micro_batches * self.interleaved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Seconds of one iteration: matrix products at the full peak, and all that does not depend on their efficiency."""

    matmul_at_peak_s: float
    other_s: float

    def seconds(self, matmul_efficiency: float) -> float:
        return self.matmul_at_peak_s / fraction("matmul_efficiency", matmul_efficiency) + self.other_s

    def matmul_efficiency(self, measured_s: float) -> float:
        """The inverse of `seconds`. Raises: ValueError where even a perfect matrix product would be slower."""
        left = positive("measured_s - other_s", positive("measured_s", measured_s) - self.other_s)
        return fraction("matmul_efficiency", self.matmul_at_peak_s / left)


def iteration(run: Layout, device: Device, *, network_bytes_per_s: float = 25e9) -> Iteration:
    """One iteration of `run`; `network_bytes_per_s` is a device's share, for the sum of gradients over `data`.

    Raises: ValueError where the device's memory bandwidth is not published.
    """
    if device.memory_bytes_per_s is None:
        raise ValueError(f"the memory bandwidth of {device.name} is not published; give one")
    memory_rate = device.memory_bytes_per_s * MEMORY_EFFICIENCY
    values = run.seq_len * run.micro_batch_size * run.d_model
    # Forward once, backward twice as much; recomputation repeats the forward, selective one only attention's core.
    times = 4 if run.full_recomputation else 3
    scores = 4 * values * run.seq_len
    layer_flops = (times * 24 * values * run.d_model + 4 * scores) / run.tensor
    layer_memory = (times * 37 * values + 4 * 11 * run.heads * run.seq_len**2 * run.micro_batch_size) / run.tensor
    sums = (6 if run.full_recomputation else 4) * 2 * (2 * values) * (run.tensor - 1) / run.tensor
    layer_other_s = layer_memory / memory_rate + sums / (NVLINK_BYTES_PER_S * NVLINK_EFFICIENCY)
    head_flops = 6 * values * run.vocabulary / run.tensor
    busy = run.num_micro_batches * (1 + run.bubble) / run.pipeline
    params = 12 * run.layers * run.d_model**2 / (run.tensor * run.pipeline)
    once_s = params * _OPTIMIZER_BYTES / memory_rate + 2 * (1 - 1 / run.data) * 4 * params / network_bytes_per_s
    return Iteration(
        matmul_at_peak_s=busy * (run.layers * layer_flops + head_flops) / device.bf16_flops_per_s,
        other_s=busy * run.layers * layer_other_s + once_s,
    )
