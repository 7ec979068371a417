"""The steps of a run that survive so far, for millions of them: 40 bytes each, and no sum over all of them per step.

They are ascending: a step that is made again drops itself and all after it first.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What one surviving step cost, in worker-seconds, and what it reached."""

    attempt: int
    worker_s: float
    loss: float
    num_tokens: int


class StepBook:
    """Steps by number. `worker_s` and `num_tokens` are the sums over what is in it."""

    def __init__(self) -> None:
        self._step, self._attempt, self._tokens = array("q"), array("q"), array("q")
        self._worker_s, self._loss = array("d"), array("d")
        self.worker_s = 0.0
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._step)

    @property
    def last(self) -> int | None:
        """The newest step; None if there is none."""
        return self._step[-1] if self._step else None

    def add(self, step: int, cost: StepCost) -> None:
        """Add a step after the last one."""
        assert self.last is None or step > self.last, (step, self.last)
        self._step.append(step)
        self._attempt.append(cost.attempt)
        self._tokens.append(cost.num_tokens)
        self._worker_s.append(cost.worker_s)
        self._loss.append(cost.loss)
        self.worker_s += cost.worker_s
        self.num_tokens += cost.num_tokens

    def drop_after(self, step: int) -> tuple[int, float]:
        """Take out all steps after `step`; how many, and what they cost in worker-seconds."""
        keep = bisect_right(self._step, step)
        dropped, cost = len(self) - keep, sum(self._worker_s[keep:])
        if dropped:
            for column in (self._step, self._attempt, self._tokens, self._worker_s, self._loss):
                del column[keep:]
            # Added up anew, so that what was lost leaves no rounding behind.
            self.worker_s, self.num_tokens = sum(self._worker_s), sum(self._tokens)
        return dropped, cost

    def get(self, step: int) -> StepCost | None:
        """What is known of a step; None if it does not survive."""
        at = bisect_right(self._step, step) - 1
        if at < 0 or self._step[at] != step:
            return None
        return StepCost(
            attempt=self._attempt[at],
            worker_s=self._worker_s[at],
            loss=self._loss[at],
            num_tokens=self._tokens[at],
        )

    def losses(self) -> Iterator[tuple[int, float]]:
        """Every step with its loss, ascending."""
        yield from zip(self._step, self._loss, strict=True)
