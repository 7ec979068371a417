"""Time of one optimizer step of data-parallel (ZeRO) training: compute, communication, and what of it hides.

    step = passes x pass + communication - hidden,   passes = ceil(M / W)

so doubling the workers halves a step only while passes halve and communication hides. Knows no model: a `Pass` is how
long one micro-batch takes, whoever measured or estimated it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planner.model import FULL_RECOMPUTATION, Model
from orchestrator.planner.network import Link, Traffic, ring_s
from orchestrator.planner.values import fraction, not_negative, positive
from orchestrator.policy.batch_plan import BatchPlan

_BACKWARD = 2 / 3  # of a pass: 4N of 6N FLOPs a token; of 8N, 6N with recomputation
_BACKWARD_RECOMPUTED = 3 / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Parts of one step in seconds; `comm_s` is all of it, `exposed_s` what does not hide behind compute."""

    passes: int
    compute_s: float
    comm_s: float
    exposed_s: float

    @property
    def total_s(self) -> float:
        return self.compute_s + self.exposed_s


def pass_s(
    model: Model, micro_batch_size: int, mfu: float, peak_flops_per_s: float, *, recompute: bool = False
) -> float:
    """Seconds of one pass of one device. `mfu` is measured without recomputation, which adds a third.

    Source: 6N + 12 L d s per token (PaLM, 2204.02311, appendix B) at `mfu` of the peak.
    """
    flops = model.flops_per_token * model.seq_len * positive("micro_batch_size", micro_batch_size)
    return flops * (FULL_RECOMPUTATION if recompute else 1.0) / (fraction("mfu", mfu) * peak_flops_per_s)


def step_time(
    batch: BatchPlan,
    world_size: int,
    *,
    pass_s: float,
    traffic: Traffic,
    link: Link,
    overlap: float = 1.0,
    recompute: bool = False,
) -> StepTime:
    """One optimizer step at this world size; padding passes take as long as those that count.

    `overlap` is the share of communication that hides as far as there is compute to hide it: per-pass traffic of
    stage 3 behind everything, gradients behind backward passes (a reduction at the end: behind the last one), and what
    follows the optimizer behind nothing. Our model, after ZeRO's (1910.02054) schedule.
    Holds: never falls when the link slows down or the overlap shrinks (tests/planner). Raises: ValueError.
    """
    positive("pass_s", pass_s)
    if not_negative("overlap", overlap) > 1:
        raise ValueError(f"overlap is {overlap}; it must be 0..1")
    passes = batch.passes(world_size)
    compute = passes * pass_s
    per_pass = ring_s(passes * traffic.per_pass_bytes, passes * traffic.per_pass_calls, link, world_size)
    at_end = ring_s(traffic.at_end_bytes, traffic.at_end_calls, link, world_size)
    after = ring_s(traffic.after_bytes, traffic.after_calls, link, world_size)
    backward = _BACKWARD_RECOMPUTED if recompute else _BACKWARD
    # Stage 3 is the one that moves parameters within passes, and leaves nothing for after the optimizer.
    room = compute if not traffic.after_bytes else compute * backward
    hidden = overlap * (min(per_pass, room) + min(at_end, pass_s * backward))
    comm = per_pass + at_end + after
    return StepTime(passes=passes, compute_s=compute, comm_s=comm, exposed_s=comm - hidden)
