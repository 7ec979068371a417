"""What goes into the next engine step: online rows by deadline, then batch rows in what time is left.

Pure functions of rows, model and time; the scheduler applies the result, admission plays it forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serving.policy.fairness import T, take_turns
from serving.policy.rows import Request, Row, Work, urgency
from serving.policy.step_time import EMPTY, StepShape, StepTimeModel
from serving.policy.tiers import PolicyConfig, Tier

# Faster tiers come first.
RANK = {Tier.KEYSTROKE: 0, Tier.INTERACTIVE: 1, Tier.BATCH: 2}
_MIN_ALLOWANCE_S = 1e-3
# Who is to be late by no more than a step still works towards its deadline: to give way for a millisecond that a
# forecast was wrong by would cost a whole allowance. At most a twentieth of that.
_NEARLY_S, _NEARLY = 0.015, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What every decision about one replica rests on; `has_batch`: there are batch rows."""

    config: PolicyConfig
    model: StepTimeModel
    num_slots: int
    has_batch: bool = False

    @property
    def online_slots(self) -> int:
        """Slots that rows somebody waits for can count on: while there are batch rows, one of several is theirs."""
        return max(1, self.num_slots - 1) if self.earned_share else self.num_slots

    @property
    def earned_share(self) -> float:
        """The part of step time that batch rows are earning."""
        return self.config.batch_share if self.has_batch else 0.0


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


def order_online(rows: Iterable[Row], rules: Rules, *, now_s: float) -> list[Row]:
    """Rows that someone waits for, batch rows near their deadline included, in the order in which they are served.

    Inside a tier, tenants take turns; those in time among themselves, and the late ones among themselves.
    """
    rows = list(rows)
    longest_s = _longest_step_s(rows, rules)
    online = [row for row in rows if row.request.tier.is_online or _is_promoted(row, rules, now_s, longest_s)]
    return in_order([(due_s(row, rules, now_s=now_s), row) for row in online])


def in_order(due: Iterable[tuple[float, T]]) -> list[T]:
    """What has a deadline to work towards, the earliest first; those whose own one has passed take turns apart."""
    ordered = sorted(due, key=lambda each: (each[0], each[1].request.id))
    is_late = [due_s > each.request.deadline_s for due_s, each in ordered]
    in_time = iter(take_turns([each for (_, each), late in zip(ordered, is_late, strict=True) if not late]))
    overdue = iter(take_turns([each for (_, each), late in zip(ordered, is_late, strict=True) if late]))
    return [next(overdue if late else in_time) for late in is_late]


def due_s(row: Row, rules: Rules, *, now_s: float) -> float:
    """The deadline to work towards. One that cannot be met even nearly is replaced by the next that can, a whole
    allowance later: put first, late rows would make every other row late, too; put last, they would never be served."""
    return working_towards_s(row.request, alone_s(row, rules), now_s=now_s)


def working_towards_s(request: Request, needs_s: float, *, now_s: float) -> float:
    """As `due_s`, for a request that needs so long alone."""
    slack_s = request.deadline_s - now_s - needs_s
    allowed_s = max(request.deadline_s - request.arrival_s, _MIN_ALLOWANCE_S)
    if slack_s >= -min(_NEARLY_S, _NEARLY * allowed_s):
        return request.deadline_s
    return request.deadline_s + math.ceil(-slack_s / allowed_s) * allowed_s


def _is_promoted(row: Row, rules: Rules, now_s: float, longest_step_s: float) -> bool:
    """A batch row whose spare time has shrunk to a multiple of the time it needs alone."""
    spare_s, factor = row.request.deadline_s - now_s, rules.config.promote_laxity + 1
    if spare_s >= factor * row.remaining_steps(rules.config.prefill_chunk_tokens) * longest_step_s:
        return False  # the usual case, without a look at each step
    return spare_s < factor * alone_s(row, rules)


def _longest_step_s(rows: Sequence[Row], rules: Rules) -> float:
    """At least as long as any step of one of these rows alone."""
    context = max((row.request.prompt_tokens + row.request.max_tokens for row in rows), default=0)
    return rules.model.predict_s(StepShape(1, rules.config.prefill_chunk_tokens, context))


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


def fill_online(online: Sequence[Row], rules: Rules, budget: Budget) -> Filled:
    """Work for online rows in the given order while it fits the budget; the first row's always does."""
    work: list[Work] = []
    shape, skipped = EMPTY, False
    for row in online:
        part = fit(row, shape, rules, budget.limit_s(row.request.tier) if work else math.inf)
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
        part = fit(row, shape, rules, limit_s if work or filled.skipped else math.inf)
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


def fit(row: Row, shape: StepShape, rules: Rules, limit_s: float) -> Work | None:
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


def split(rows: Iterable[Row], online: Sequence[Row]) -> list[Row]:
    """The rows that are not in `online`; all of them are batch rows."""
    chosen = {row.request.id for row in online}
    rest = [row for row in rows if row.request.id not in chosen]
    assert all(row.request.tier is Tier.BATCH for row in rest)
    return rest


def density(online: Iterable[Row], rules: Rules, *, now_s: float) -> float:
    """The part of the engine that these rows need until they are due, beside others: what every step takes, whoever is
    in it, is paid by those. Deadlines can be kept while densities sum to at most one (Liu 2000, Real-Time Systems,
    section 6.2).
    """
    step_s = rules.model.predict_s(EMPTY)
    total = 0.0
    for row in online:
        if (alone := alone_s(row, rules)) > 0:
            needs_s = alone - row.remaining_steps(rules.config.prefill_chunk_tokens) * step_s
            total += needs_s / max(alone, due_s(row, rules, now_s=now_s) - now_s)
    return total
