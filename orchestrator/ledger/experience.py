"""What the steps of a job cost when work like it ran last: known before it runs again, from what was booked.

Only runs of the same work count: another model, batch or precision of the same name says nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.ledger.rows import AttemptRow, JobRow

_SAME_WORK = ("task", "args", "batch", "deepspeed", "strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """Measured on the run `job`, on devices of `pools`.

    `step_worker_s`: useful worker-seconds of a step, on average; `pass_s`: seconds of a pass at the size that was
    fastest; `step_device_ms`, `step_micro_usd`: everything that was booked, stalls included, over its steps.
    """

    job: str
    pools: frozenset[str]
    num_micro_batches: int
    step_worker_s: float
    pass_s: float
    step_device_ms: int
    step_micro_usd: int

    def step_s(self, workers: int) -> float:
        """Seconds of a step with so many workers, at the fastest that was ever seen."""
        return self.pass_s * -(-self.num_micro_batches // workers)


def experience_of(row: JobRow, attempts: Sequence[AttemptRow], document: Mapping[str, Any]) -> Experience | None:
    """What a run has taught; None if it made no step that was worth anything."""
    if not row.steps_done:
        return None
    batch = document["spec"]["batch"]
    num_micro_batches = -(-int(batch["global_batch_size"]) // int(batch["micro_batch_size"]))
    passes: list[float] = []
    starts = [*(one.start_step for one in attempts), row.steps_done]
    for one, (first, following) in zip(attempts, itertools.pairwise(starts), strict=True):
        if following > first and one.useful_ms > 0:
            seconds = one.useful_ms / 1000 / (one.world_size * row.shape.devices_per_worker)
            passes.append(seconds / (following - first) / -(-num_micro_batches // one.world_size))
    if not passes:
        return None
    useful_s = sum(one.useful_ms for one in attempts) / 1000 / row.shape.devices_per_worker
    return Experience(
        job=row.id,
        pools=frozenset(pool for one in attempts for pool, _ in one.held_ms),
        num_micro_batches=num_micro_batches,
        step_worker_s=useful_s / row.steps_done,
        pass_s=min(passes),
        step_device_ms=row.spent_device_ms // row.steps_done,
        step_micro_usd=row.spent_micro_usd // row.steps_done,
    )


def same_work(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the steps of two documents cost the same on the same devices."""
    return _work(one) == _work(other)


def _work(document: Mapping[str, Any]) -> str:
    spec = document["spec"]
    parts = [spec.get(key) for key in _SAME_WORK] + [spec.get("workers", {}).get("resources")]
    return json.dumps(parts, sort_keys=True, default=str)
