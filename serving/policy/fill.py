"""What goes into the next engine step: online rows by deadline, then batch rows in what time is left.

Pure functions of rows, model and time; the scheduler applies the result, admission plays it forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serving.policy.fairness import take_turns
from serving.policy.rows import Row, Work, urgency
from serving.policy.step_time import EMPTY, StepShape, StepTimeModel
from serving.policy.tiers import PolicyConfig, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What every decision about one replica rests on."""

    config: PolicyConfig
    model: StepTimeModel
    num_slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A step's work. `batch_s` is the time that batch rows added; `skipped` says that an online row had to wait."""

    work: tuple[Work, ...] = ()
    shape: StepShape = EMPTY
    predicted_s: float = 0.0
    batch_s: float = 0.0
    skipped: bool = False


def order_online(rows: Iterable[Row], rules: Rules, *, now_s: float) -> list[Row]:
    """Rows that someone waits for, batch rows near their deadline included, in the order in which they are served.

    Rows that cannot make their deadline any more come last: put first, they would make every other row late, too.
    Inside a tier, tenants take turns.
    """
    online = [row for row in rows if row.request.tier.is_online or is_promoted(row, rules, now_s=now_s)]
    late = {row.request.id for row in online if _slack_s(row, rules, now_s=now_s) < 0}
    ordered = sorted(online, key=urgency)
    in_time = [row for row in ordered if row.request.id not in late]
    return take_turns(in_time) + take_turns([row for row in ordered if row.request.id in late])


def is_promoted(row: Row, rules: Rules, *, now_s: float) -> bool:
    """A batch row whose spare time has shrunk to a multiple of the time it needs alone."""
    if row.request.tier.is_online:
        return False
    needed_s = alone_s(row, rules)
    return row.request.deadline_s - now_s - needed_s < rules.config.promote_laxity * needed_s


def step_budget_s(online: Sequence[Row], rules: Rules, *, now_s: float) -> float:
    """Longest next step with which every online row, served in every step, still makes its deadline.

    Capped by the tiers that are live; without online rows by the batch cap. Late rows have no say.
    """
    caps = {rules.config.targets[row.request.tier].step_cap_s for row in online if row.request.tier.is_online}
    limits = [cap for cap in caps if cap is not None] if online else [rules.config.batch_step_cap_s]
    for row in online:
        spare_s = row.request.deadline_s - now_s - rules.model.tail_s
        if spare_s > 0:
            limits.append(spare_s / max(1, row.remaining_steps(rules.config.prefill_chunk_tokens)))
    return min(limits, default=math.inf)


def fill_online(online: Sequence[Row], rules: Rules, budget_s: float) -> Filled:
    """Work for online rows in the given order while it fits the budget; the first row's always does."""
    work: list[Work] = []
    shape, skipped = EMPTY, False
    for row in online:
        part = _fit(row, shape, rules, budget_s if work else math.inf)
        if part is None:
            skipped = True
            continue
        work.append(part)
        shape += part.shape
    return Filled(
        work=tuple(work), shape=shape, predicted_s=rules.model.predict_s(shape) if work else 0.0, skipped=skipped
    )


def add_batch(filled: Filled, batch: Sequence[Row], rules: Rules, *, budget_s: float, owed_s: float) -> Filled:
    """Add batch rows by deadline: within the budget when no online row had to wait, and always within what is owed.

    `owed_s` is step time that the batch share has earned and not had (may be negative).
    """
    spare_s = 0.0 if filled.skipped else budget_s - filled.predicted_s
    limit_s = filled.predicted_s + max(spare_s, owed_s)
    work, shape = list(filled.work), filled.shape
    for row in sorted(batch, key=urgency):
        part = _fit(row, shape, rules, limit_s if work else math.inf)
        if part is not None:
            work.append(part)
            shape += part.shape
    predicted_s = rules.model.predict_s(shape) if work else 0.0
    return Filled(
        work=tuple(work),
        shape=shape,
        predicted_s=predicted_s,
        batch_s=predicted_s - filled.predicted_s,
        skipped=filled.skipped,
    )


def _fit(row: Row, shape: StepShape, rules: Rules, limit_s: float) -> Work | None:
    """The most work for `row` that keeps the step within the limit: a whole chunk, half of it, ..., or nothing."""
    chunk = rules.config.prefill_chunk_tokens
    while True:
        work = row.next_work(chunk)
        if rules.model.predict_s(shape + work.shape) <= limit_s:
            return work
        chunk = min(chunk, work.prefill_tokens) // 2
        if chunk < rules.config.min_chunk_tokens:
            return None


def alone_s(row: Row, rules: Rules) -> float:
    """Time a row needs when it has the engine for itself."""
    prompt = row.request.prompt_tokens - row.prefilled
    decodes = row.request.max_tokens - row.generated - (1 if prompt else 0)
    chunks, rest = divmod(prompt, rules.config.prefill_chunk_tokens)
    return (
        chunks * rules.model.predict_s(StepShape(0, rules.config.prefill_chunk_tokens, 0))
        + (rules.model.predict_s(StepShape(0, rest, 0)) if rest else 0.0)
        + decodes * rules.model.predict_s(StepShape(1, 0, row.request.prompt_tokens + row.request.max_tokens))
    )


def _slack_s(row: Row, rules: Rules, *, now_s: float) -> float:
    return row.request.deadline_s - now_s - alone_s(row, rules)


def split(rows: Iterable[Row], online: Sequence[Row]) -> list[Row]:
    """The rows that are not in `online`; all of them are batch rows."""
    chosen = {row.request.id for row in online}
    rest = [row for row in rows if row.request.id not in chosen]
    assert all(row.request.tier is Tier.BATCH for row in rest)
    return rest
