"""What goes into the next engine step: online rows by deadline, then batch rows in what time is left.

Pure functions of rows, model and time; the scheduler applies the result, admission plays it forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serving.policy.order import due_s
from serving.policy.rows import Row, Work, urgency
from serving.policy.rules import RANK, Rules
from serving.policy.step_time import EMPTY, StepShape
from serving.policy.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A step's work. `batch_s` is the time that batch rows added; `skipped` says that an online row had to wait."""

    work: tuple[Work, ...] = ()
    shape: StepShape = EMPTY
    predicted_s: float = 0.0
    batch_s: float = 0.0
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long the next step may be. `deadline_s`: so that every online row, served in every step, is in time.

    `caps_s` says for which tiers live rows keep steps short; a cap binds slower tiers alone, because a row of the same
    tier that waits for the next one is no faster.
    """

    deadline_s: float
    caps_s: Mapping[Tier, float]

    def limit_s(self, tier: Tier) -> float:
        """The longest step that may hold more work of this tier."""
        faster = [cap_s for live, cap_s in self.caps_s.items() if RANK[live] < RANK[tier]]
        return min([self.deadline_s, *faster])


def step_budget(online: Sequence[Row], rules: Rules, *, now_s: float) -> Budget:
    """Longest next step with which every online row still makes the deadline it works towards, although batch rows take
    what they earn until then."""
    caps_s: dict[Tier, float] = {}
    deadline_s = math.inf if online else rules.config.batch_step_cap_s
    for row in online:
        caps_s[row.request.tier] = rules.config.step_cap_s(row.request.tier)
        spare_s = due_s(row, rules, now_s=now_s) - now_s - rules.model.tail_s
        if spare_s > 0:
            steps = max(1, row.remaining_steps(rules.config.prefill_chunk_tokens))
            deadline_s = min(deadline_s, spare_s * (1 - rules.earned_share) / steps)
    return Budget(deadline_s=deadline_s, caps_s=caps_s)


class Packing:
    """A step while it is being filled: its work, and counts of what is in it."""

    def __init__(self, rules: Rules, filled: Filled | None = None) -> None:
        self._model = rules.model
        self._chunk, self._min_chunk = rules.config.prefill_chunk_tokens, rules.config.min_chunk_tokens
        self.work = list(filled.work) if filled else []
        shape = filled.shape if filled else EMPTY
        self._rows, self._prefill, self._context = shape.decode_rows, shape.prefill_tokens, shape.context_tokens

    @property
    def shape(self) -> StepShape:
        """What the step computes."""
        return StepShape(self._rows, self._prefill, self._context)

    @property
    def predicted_s(self) -> float:
        """How long it takes."""
        return self._model.predict_s(self.shape) if self.work else 0.0

    def add(self, row: Row, limit_s: float) -> bool:
        """The most work for `row` that keeps the step within the limit: a decoded token; of a prompt a chunk, half
        of it, ...; or nothing, which is False."""
        if row.needs_prefill:
            return self._add_chunk(row, limit_s)
        context = self._context + row.context_tokens
        if self._model.predict_parts_s(self._rows + 1, self._prefill, context) > limit_s:
            return False
        self._rows, self._context = self._rows + 1, context
        self.work.append(Work(row=row))
        return True

    def _add_chunk(self, row: Row, limit_s: float) -> bool:
        tokens = min(self._chunk, row.request.prompt_tokens - row.prefilled)
        while self._model.predict_parts_s(self._rows, self._prefill + tokens, self._context) > limit_s:
            tokens //= 2
            if tokens < self._min_chunk:
                return False
        self._prefill += tokens
        self.work.append(Work(row=row, prefill_tokens=tokens))
        return True


def fill_online(online: Sequence[Row], rules: Rules, budget: Budget) -> Filled:
    """Work for online rows in the given order while it fits the budget; the first row's always does."""
    step, skipped = Packing(rules), False
    limits_s = {tier: budget.limit_s(tier) for tier in budget.caps_s}
    for row in online:
        if not step.add(row, limits_s[row.request.tier] if step.work else math.inf):
            skipped = True
    return Filled(work=tuple(step.work), shape=step.shape, predicted_s=step.predicted_s, skipped=skipped)


def add_batch(filled: Filled, batch: Sequence[Row], rules: Rules, *, budget_s: float, owed_s: float) -> Filled:
    """Add batch rows by deadline: within the budget when no online row had to wait, and always within what is owed.

    `owed_s` is step time that the batch share has earned and not had (may be negative).
    """
    spare_s = 0.0 if filled.skipped else budget_s - filled.predicted_s
    limit_s = filled.predicted_s + max(spare_s, owed_s)
    step = Packing(rules, filled)
    for row in sorted(batch, key=urgency):
        step.add(row, limit_s if step.work or filled.skipped else math.inf)
    predicted_s = step.predicted_s
    return Filled(
        work=tuple(step.work),
        shape=step.shape,
        predicted_s=predicted_s,
        batch_s=predicted_s - filled.predicted_s,
        skipped=filled.skipped,
    )


def split(rows: Iterable[Row], online: Sequence[Row]) -> list[Row]:
    """The rows that are not in `online`; all of them are batch rows."""
    chosen = {row.request.id for row in online}
    rest = [row for row in rows if row.request.id not in chosen]
    assert all(row.request.tier is Tier.BATCH for row in rest)
    return rest
