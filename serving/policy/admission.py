"""Whether a new request can be served in time, and if not, when it could be."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.policy.costs import Costs
from serving.policy.fairness import yielding
from serving.policy.forecast import Effort, Forecast, drain_s
from serving.policy.order import order_online, working_towards_s
from serving.policy.reserve import moved
from serving.policy.rows import Request, Row
from serving.policy.rules import Rules
from serving.policy.tiers import Tier

# Moments of the forecast at which a refused request is tried again, each after twice as many rows have finished.
_MAX_TRIALS = 4
# Forecasts differ by less for reasons of rounding.
_NO_DELAY_S = 1e-3
# Who must end later than so many allowances after the deadline is protected no more. With room for rounding.
_MAX_ALLOWANCES_LATE = 1.001
# Rows looked at for one decision, over all steps that it plays forward: some two milliseconds. Whoever needs more to
# be sure of comes into a queue that no more should join.
_MAX_EFFORT = 3000


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
    """Not now. `retry_after_s` is when, without further arrivals, it would be admitted, as far as can be told."""

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
    line_end_s: float = -math.inf,
) -> Admitted | Refused:
    """Admit what finishes in time and delays nobody beyond a deadline that can still be kept, but for rows of a tenant
    that has had more turns than the request's own, promised ones included.

    `rows` are those the next step can concern, `num_waiting` all of the request's tier that have no slot, `free_at_s`
    the predicted end of the step that is running, `coming` the rows of those who were promised a place and `line_end_s`
    when the last of them is through. A request that
    no load stands in the way of is taken even when it is too slow for its tier: refusing would leave the engine idle,
    and late rows give way, so it costs nobody anything.
    """
    if num_waiting >= rules.config.targets[request.tier].max_waiting:
        # The rows at hand stand for those behind them: a place is free when one of them has left.
        hint_s = drain_s(rows, rules) / max(1, len(rows))
        return Refused(reason=RefusalReason.QUEUE_FULL, retry_after_s=hint_s)
    if request.tier is Tier.BATCH:
        before_s = drain_s(rows, rules) * (1 + num_waiting / max(1, len(rows)))
        return Admitted(predicted_finish_s=now_s + before_s + drain_s([Row(request=request)], rules))
    start_s = max(now_s, free_at_s)
    online = order_online(rows, rules, now_s=start_s)
    costs, effort = Costs(rules), Effort(_MAX_EFFORT)
    verdict = _try(request, online, coming, costs, start_s, effort)
    if isinstance(verdict, RefusalReason):
        retry_at_s = _good_moment_s(request, online, costs, start_s, max(start_s, line_end_s), effort)
        return Refused(reason=verdict, retry_after_s=retry_at_s - now_s)
    return Admitted(predicted_finish_s=verdict)


def _try(
    request: Request, online: Sequence[Row], coming: Sequence[Row], costs: Costs, start_s: float, effort: Effort
) -> float | RefusalReason:
    """The predicted finish of an admissible request, or what speaks against it."""
    new = Row(request=request)
    alone = not (online or coming)
    last_s = _last_moments_s([*online, *coming, new], costs, start_s)
    after = Forecast([*online, new], costs, start_s=start_s, coming=coming, effort=effort)
    after.play(math.inf if alone else last_s[request.id])
    finish_s = after.finish_s.get(request.id, math.inf)
    if alone:
        return finish_s
    if finish_s > last_s[request.id]:
        return RefusalReason.WOULD_BE_LATE
    after.play(max(last_s.values()))
    harmed = _late(last_s, after.finish_s)
    if harmed and effort.left > 0:
        before = Forecast(online, costs, start_s=start_s, coming=coming, effort=effort)
        before.play(max(last_s.values()))
        if effort.left > 0:  # what was not played to its end says nothing of who would be late anyway
            harmed -= {row_id for row_id in harmed if _delay_s(row_id, before, after) < _NO_DELAY_S}
    if harmed:
        in_order = order_online([*online, *coming, new], costs.rules, now_s=start_s)
        harmed -= yielding(in_order, request.id)
    return RefusalReason.WOULD_DELAY_OTHERS if harmed else finish_s


def _delay_s(row_id: str, before: Forecast, after: Forecast) -> float:
    """How much later a row finishes after all; nothing for one whose end lies beyond the forecasts anyway."""
    finish_s = before.finish_s.get(row_id, math.inf)
    return after.finish_s.get(row_id, math.inf) - finish_s if finish_s < math.inf else 0.0


def _late(last_s: Mapping[str, float], finish_s: Mapping[str, float]) -> set[str]:
    return {row_id for row_id, at_s in last_s.items() if finish_s.get(row_id, math.inf) > at_s}


def _last_moments_s(rows: Sequence[Row], costs: Costs, start_s: float) -> dict[str, float]:
    """When each row must be finished by prediction, so that it keeps the deadline it works towards; the new one's is
    the one it was promised.

    Without those that end more than a whole allowance late, however few come after them: one answer that is far too
    long for its tier must not close the replica to all others.
    """
    last_s = {}
    for row in rows:
        request, towards_s = row.request, row.request.deadline_s
        if row.slot is not None or row.prefilled:
            towards_s = working_towards_s(request, costs.row_alone_s(row), now_s=start_s)
        if towards_s - request.deadline_s <= (request.deadline_s - request.arrival_s) * _MAX_ALLOWANCES_LATE:
            last_s[request.id] = towards_s - costs.tail_s
    return last_s


def _good_moment_s(
    request: Request, online: Sequence[Row], costs: Costs, start_s: float, earliest_s: float, effort: Effort
) -> float:
    """When the same request would be admitted: tried when a row of the forecast finishes.

    Leaves out those who were promised a place: the new promise lines up behind theirs, from `earliest_s` on.
    """
    load, finished, trial = Forecast(online, costs, start_s=start_s, effort=effort), 0, 0
    while not load.is_over:
        if not load.stretch() or load.now_s < earliest_s:
            continue
        finished += 1
        if finished >= 2**trial and trial < _MAX_TRIALS:
            trial, at_s = trial + 1, load.now_s
            if not isinstance(_try(moved(request, at_s), load.live, (), costs, at_s, effort), RefusalReason):
                break
    drained_s = start_s + drain_s(online, costs.rules) if effort.left <= 0 else load.now_s
    return max(load.now_s, drained_s, earliest_s)
