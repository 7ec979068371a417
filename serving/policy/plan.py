"""One engine step as a value: what the replica does next, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.policy.step_time import EMPTY, StepShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWork:
    """One row's part of a step: prefill `prefill_tokens` of its prompt from `start`, or (0) decode one token.

    `makes_token` is false for every prompt chunk but the last.
    """

    id: str
    slot: int
    start: int
    prefill_tokens: int
    makes_token: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One engine step, in the order of the fields: free slots, drop parked caches, park, resume, then the work.

    `park` holds (row id, its old slot, its cached tokens), `resume` (row id, its new slot). `batch_s` is the part of
    `predicted_s` that batch rows add; `budget_s` what the step might have taken.
    """

    free: tuple[int, ...] = ()
    drop: tuple[str, ...] = ()
    park: tuple[tuple[str, int, int], ...] = ()
    resume: tuple[tuple[str, int], ...] = ()
    work: tuple[PlannedWork, ...] = ()
    shape: StepShape = EMPTY
    predicted_s: float = 0.0
    batch_s: float = 0.0
    budget_s: float = math.inf

    @property
    def is_empty(self) -> bool:
        """Nothing to do, not even to free."""
        return not (self.free or self.drop or self.park or self.resume or self.work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """No step now. Look again at `wake_at_s` (None = when something arrives)."""

    wake_at_s: float | None = None
