"""Whether a new request can be served in time, and if not, when it could be."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.policy.fairness import yielding
from serving.policy.fill import Rules, due_s, order_online
from serving.policy.forecast import drain_s, forecast, play
from serving.policy.reserve import moved
from serving.policy.rows import Request, Row
from serving.policy.tiers import Tier

# Moments of the forecast at which a refused request is tried again; later ones cost time and help nobody.
_MAX_TRIALS = 8


class RefusalReason(enum.StrEnum):
    """Why a request was not taken."""

    WOULD_BE_LATE = "would_be_late"
    WOULD_DELAY_OTHERS = "would_delay_others"
    QUEUE_FULL = "queue_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The request is in. `superseded` are the requests of its session that it replaces, already removed."""

    predicted_finish_s: float
    superseded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Not now. `retry_after_s` is when, without further arrivals, it would be admitted."""

    reason: RefusalReason
    retry_after_s: float


def decide(
    request: Request,
    rows: Sequence[Row],
    rules: Rules,
    *,
    num_waiting: int,
    now_s: float,
    free_at_s: float,
    coming: Sequence[Row] = (),
) -> Admitted | Refused:
    """Admit what finishes in time and makes nobody late who would not have been, but for rows of a tenant that has had
    more turns than the request's own, promised ones included.

    `rows` are those the next step can concern, `num_waiting` all of the request's tier that have no slot, `free_at_s`
    the predicted end of the step that is running, `coming` the rows of those who were promised a place. A request that
    no load stands in the way of is taken even when it is too slow for its tier: refusing would leave the engine idle,
    and late rows give way, so it costs nobody anything.
    """
    if num_waiting >= rules.config.targets[request.tier].max_waiting:
        # The rows at hand stand for those behind them: a place is free when one of them has left.
        return Refused(reason=RefusalReason.QUEUE_FULL, retry_after_s=drain_s(rows, rules) / max(1, len(rows)))
    if request.tier is Tier.BATCH:
        before_s = drain_s(rows, rules) * (1 + num_waiting / max(1, len(rows)))
        return Admitted(predicted_finish_s=now_s + before_s + drain_s([Row(request=request)], rules))
    start_s = max(now_s, free_at_s)
    online = order_online(rows, rules, now_s=start_s)
    verdict = _try(request, online, coming, rules, start_s)
    if isinstance(verdict, RefusalReason):
        return Refused(reason=verdict, retry_after_s=_good_moment_s(request, online, rules, start_s) - now_s)
    return Admitted(predicted_finish_s=verdict)


def _try(
    request: Request, online: Sequence[Row], coming: Sequence[Row], rules: Rules, start_s: float
) -> float | RefusalReason:
    """The predicted finish of an admissible request, or what speaks against it."""
    everybody = [*online, *coming, Row(request=request)]
    after = forecast([*online, Row(request=request)], rules, start_s=start_s, coming=coming)
    late = _late(everybody, after, rules, start_s)
    if not late or not (online or coming):
        return after[request.id]
    if request.id in late:
        return RefusalReason.WOULD_BE_LATE
    before = forecast(online, rules, start_s=start_s, coming=coming)
    harmed = late - _late([*online, *coming], before, rules, start_s)
    if not harmed:
        return after[request.id]
    in_order = order_online(everybody, rules, now_s=start_s)
    return RefusalReason.WOULD_DELAY_OTHERS if harmed - yielding(in_order, request.id) else after[request.id]


def _late(rows: Sequence[Row], finish_s: Mapping[str, float], rules: Rules, start_s: float) -> set[str]:
    """Rows that miss the deadline they work towards; the new one's is the one it was promised."""
    margin_s = rules.model.tail_s
    return {
        row.request.id
        for row in rows
        if finish_s[row.request.id] + margin_s > max(row.request.deadline_s, _working_towards_s(row, rules, start_s))
    }


def _working_towards_s(row: Row, rules: Rules, start_s: float) -> float:
    is_new = row.slot is None and not row.prefilled
    return row.request.deadline_s if is_new else due_s(row, rules, now_s=start_s)


def _good_moment_s(request: Request, online: Sequence[Row], rules: Rules, start_s: float) -> float:
    """When the same request would be admitted: tried whenever a row of the forecast finishes.

    Leaves out those who were promised a place: the new promise lines up behind theirs.
    """
    at_s = start_s
    for trial, (at_s, left) in enumerate(play(online, rules, start_s=start_s)):
        if trial < _MAX_TRIALS and not isinstance(_try(moved(request, at_s), left, (), rules, at_s), RefusalReason):
            break
    return at_s
