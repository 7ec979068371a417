"""Whether a new request can be served in time, and if not, when it could be."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from serving.policy.costs import Costs, Run
from serving.policy.fairness import yielding
from serving.policy.forecast import Effort, Forecast, drain_s
from serving.policy.harm import Harm, last_moments_s
from serving.policy.order import in_order, waited_for
from serving.policy.reserve import moved
from serving.policy.rows import Request, Row
from serving.policy.rules import Rules
from serving.policy.tiers import Tier

# Moments of the forecast at which a refused request is tried again, each after twice as many rows have finished.
_MAX_TRIALS = 4
# Rows looked at for one decision, over all steps that it plays forward: less than two milliseconds. Whoever needs more
# to be sure of comes into a queue that no more should join.
_MAX_EFFORT = 1600


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
    margin_s: float | None = None,
) -> Admitted | Refused:
    """Admit what finishes in time and delays nobody beyond a deadline that can still be kept, but for rows of a tenant
    that has had more turns than the request's own, promised ones included.

    `rows` are those the next step can concern, `num_waiting` all of the request's tier that have no slot, `free_at_s`
    the predicted end of the step that is running, `coming` the rows of those who were promised a place and `line_end_s`
    when the last of them is through; `margin_s` as in `Costs`. A request that no load stands in the way of is taken
    even when it is too slow for its tier: refusing would leave the engine idle, and late rows give way, so it costs
    nobody anything.
    """
    chunk = rules.config.prefill_chunk_tokens
    if num_waiting >= rules.config.targets[request.tier].max_waiting:
        # The rows at hand stand for those behind them: a place is free when one of them has left.
        hint_s = drain_s([row.remaining_steps(chunk) for row in rows], rules) / max(1, len(rows))
        return Refused(reason=RefusalReason.QUEUE_FULL, retry_after_s=hint_s)
    if request.tier is Tier.BATCH:
        drained_s = drain_s([row.remaining_steps(chunk) for row in rows], rules)
        before_s = drained_s * (1 + num_waiting / max(1, len(rows)))
        return Admitted(
            predicted_finish_s=now_s + before_s + drain_s([Row(request=request).remaining_steps(chunk)], rules)
        )
    start_s = max(now_s, free_at_s)
    costs, effort = Costs(rules, margin_s=margin_s), Effort(_MAX_EFFORT)
    online = [Run(row, costs) for row in waited_for(rows, rules, now_s=start_s)]
    new = Run(Row(request=request), costs)
    later = sorted(coming, key=lambda row: (row.request.arrival_s, row.request.id))
    verdict = _try(new, online, later, costs, start_s, effort)
    if isinstance(verdict, RefusalReason):
        retry_at_s = _good_moment_s(request, online, costs, start_s, max(start_s, line_end_s), effort)
        return Refused(reason=verdict, retry_after_s=retry_at_s - now_s)
    return Admitted(predicted_finish_s=verdict)


def _try(
    new: Run, online: Sequence[Run], coming: Sequence[Row], costs: Costs, start_s: float, effort: Effort
) -> float | RefusalReason:
    """The predicted finish of an admissible request, or what speaks against it."""
    request_id = new.request.id
    after = Forecast([*online, new], costs, start_s=start_s, coming=coming, effort=effort)
    if not (online or coming):
        after.play()
        return after.finish_s.get(request_id, math.inf)
    last_s = last_moments_s([*online, new], coming, costs, start_s)
    after.play(last_s[request_id])
    finish_s = after.finish_s.get(request_id, math.inf)
    if finish_s > last_s[request_id]:
        return RefusalReason.WOULD_BE_LATE
    may_wait = _yielding(new, online, coming, costs, start_s)
    kept_s = {row_id: at_s for row_id, at_s in last_s.items() if row_id not in may_wait}
    harm = Harm(kept_s, after, lambda: Forecast(online, costs, start_s=start_s, coming=coming, effort=effort))
    return RefusalReason.WOULD_DELAY_OTHERS if harm.is_done_to_anybody(effort) else finish_s


def _yielding(new: Run, online: Sequence[Run], coming: Sequence[Row], costs: Costs, start_s: float) -> set[str]:
    """Whom the request may delay: other tenants' rows that are further into their turns."""
    if len({each.request.tenant for each in (new, *online)} | {row.request.tenant for row in coming}) < 2:
        return set()
    runs = [run.copy() for run in (*online, new, *(Run(row, costs) for row in coming)) if run.is_waited_for(start_s)]
    return yielding(in_order([(run.due_s(start_s), run) for run in runs]), new.request.id)


def _good_moment_s(
    request: Request, online: Sequence[Run], costs: Costs, start_s: float, earliest_s: float, effort: Effort
) -> float:
    """When the same request would be admitted: tried when a row of the forecast finishes.

    Leaves out those who were promised a place: the new promise lines up behind theirs, from `earliest_s` on.
    """
    if all(run.due_s(start_s) <= earliest_s for run in online):  # by then they are gone, and nobody but they is known
        return earliest_s
    load, finished, trial = Forecast(online, costs, start_s=start_s, effort=effort), 0, 0
    while not load.is_over:
        if not load.stretch() or load.now_s < earliest_s:
            continue
        finished += 1
        if finished >= 2**trial and trial < _MAX_TRIALS:
            trial, at_s = trial + 1, load.now_s
            again = Run(Row(request=moved(request, at_s)), costs)
            if not isinstance(_try(again, load.live, (), costs, at_s, effort), RefusalReason):
                break
    drained_s = start_s + drain_s([run.steps for run in online], costs.rules) if effort.left <= 0 else load.now_s
    return max(load.now_s, drained_s, earliest_s)
