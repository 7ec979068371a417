"""Who is served before whom: deadlines to work towards, turns of tenants, batch rows that run out of time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import itemgetter

from serving.policy.fairness import T, take_turns
from serving.policy.rows import Request, Row
from serving.policy.rules import Rules, alone_s
from serving.policy.step_time import EMPTY

_MIN_ALLOWANCE_S = 1e-3
# Who is to be late by no more than a step still works towards its deadline: to give way for a millisecond that a
# forecast was wrong by would cost a whole allowance. At most a twentieth of that.
_NEARLY_S, _NEARLY = 0.015, 0.05
_DEADLINE_AND_ID = itemgetter(0, 1)


def order_online(rows: Sequence[Row], rules: Rules, *, now_s: float) -> list[Row]:
    """Rows that someone waits for, batch rows near their deadline included, in the order in which they are served.

    Inside a tier, tenants take turns; those in time among themselves, and the late ones among themselves.
    """
    return in_order([(due_s(row, rules, now_s=now_s), row) for row in waited_for(rows, rules, now_s=now_s)])


def waited_for(rows: Sequence[Row], rules: Rules, *, now_s: float) -> list[Row]:
    """Rows that someone waits for, batch rows near their deadline included."""
    online = [row for row in rows if row.request.tier.is_online]
    batch = [row for row in rows if not row.request.tier.is_online]
    sure_s = now_s + _spare_enough_s(batch, rules)
    promoted = [
        row for row in batch
        if row.request.deadline_s < sure_s and needs_promotion(row.request, alone_s(row, rules), rules, now_s)
    ]  # fmt: skip
    return [*online, *promoted]


def in_order(due: Iterable[tuple[float, T]]) -> list[T]:
    """What has a deadline to work towards, the earliest first; those whose own one has passed take turns apart."""
    ordered = sorted([(due_s, each.request.id, each) for due_s, each in due], key=_DEADLINE_AND_ID)
    if len({each.request.tenant for _, _, each in ordered}) < 2:  # who is alone has nobody to take turns with
        return [each for _, _, each in ordered]
    is_late = [due_s > each.request.deadline_s for due_s, _, each in ordered]
    in_time = iter(take_turns([each for (_, _, each), late in zip(ordered, is_late, strict=True) if not late]))
    overdue = iter(take_turns([each for (_, _, each), late in zip(ordered, is_late, strict=True) if late]))
    return [next(overdue if late else in_time) for late in is_late]


def due_s(row: Row, rules: Rules, *, now_s: float) -> float:
    """The deadline to work towards. One that cannot be met even nearly is replaced by the next that can, a whole
    allowance later: put first, late rows would make every other row late, too; put last, they would never be served."""
    return working_towards_s(row.request, alone_s(row, rules), now_s=now_s)


def working_towards_s(request: Request, needs_s: float, *, now_s: float) -> float:
    """As `due_s`, for a request that needs so long alone."""
    slack_s = request.deadline_s - now_s - needs_s
    allowed_s = allowance_s(request)
    if slack_s >= -nearly_s(allowed_s):
        return request.deadline_s
    return request.deadline_s + math.ceil(-slack_s / allowed_s) * allowed_s


def allowance_s(request: Request) -> float:
    """How long the request may take in all."""
    return max(request.deadline_s - request.arrival_s, _MIN_ALLOWANCE_S)


def nearly_s(allowed_s: float) -> float:
    """By how much a row with this allowance may be late and still work towards its deadline."""
    return min(_NEARLY_S, _NEARLY * allowed_s)


def needs_promotion(request: Request, needs_s: float, rules: Rules, now_s: float) -> bool:
    """Whether the spare time of a batch request has shrunk to a multiple of the time that it needs alone."""
    return request.deadline_s - now_s < (rules.config.promote_laxity + 1) * needs_s


def _spare_enough_s(batch: Sequence[Row], rules: Rules) -> float:
    """Spare time with which none of these rows is promoted, without a look at each: all of its tokens, read and made
    one by one in steps as long as any of them takes, need no longer."""
    reach = max((row.request.prompt_tokens + row.request.max_tokens for row in batch), default=0)
    longest_s = rules.model.predict_parts_s(1, rules.config.prefill_chunk_tokens, reach)
    return (rules.config.promote_laxity + 1) * reach * longest_s


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
