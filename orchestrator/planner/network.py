"""Bytes that ZeRO moves in one optimizer step, and the time of it over a ring.

A `Link` is the slowest stretch of the ring, as one node sees it: its network bandwidth, whichever devices share it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planner.memory import ZeroStage
from orchestrator.planner.values import at_least_one, not_negative, positive

LINK_EFFICIENCY = 0.7
"""Share of a link's nominal bandwidth that collectives reach; an assumption (nccl-tests reach 0.6 to 0.9)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What neighbours of a ring reach: bytes per second in each direction, and the time of one message."""

    bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        positive("bytes_per_s", self.bytes_per_s)
        not_negative("latency_s", self.latency_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one device sends in a step. `per_pass` moves with every pass, `at_end` once behind the last backward pass,
    `after` when the optimizer has stepped and nothing is left to hide behind; `_calls` are collectives."""

    per_pass_bytes: float = 0.0
    at_end_bytes: float = 0.0
    after_bytes: float = 0.0
    per_pass_calls: int = 0
    at_end_calls: int = 0
    after_calls: int = 0


def zero_traffic(num_params: float, value_bytes: float, stage: ZeroStage, *, layers: int = 1) -> Traffic:
    """A ring's bytes but for the factor (W-1)/W; gradients reduced in the precision of the parameters.

    Stage 0 and 1 reduce once a step, stage 2 scatters gradients at every pass, stage 3 also gathers parameters twice
    (forward, backward) at every pass. Source: ZeRO (1910.02054), section 7 (2N, 2N, 3N); per pass as DeepSpeed does.
    """
    once = positive("num_params", num_params) * positive("value_bytes", value_bytes)
    match stage:
        case 0:
            return Traffic(at_end_bytes=2 * once, at_end_calls=2)
        case 1:
            return Traffic(at_end_bytes=once, at_end_calls=1, after_bytes=once, after_calls=1)
        case 2:
            return Traffic(per_pass_bytes=once, per_pass_calls=1, after_bytes=once, after_calls=1)
        case 3:
            return Traffic(per_pass_bytes=3 * once, per_pass_calls=3 * max(1, layers))


def ring_s(num_bytes: float, calls: int, link: Link, world_size: int) -> float:
    """Time of ring collectives that hand `num_bytes` x (W-1)/W on, in `calls` rounds of W-1 messages; 0 when alone."""
    hops = at_least_one("world_size", world_size) - 1
    return num_bytes * hops / world_size / link.bytes_per_s + calls * hops * link.latency_s
