"""One decision about an endpoint's devices: lend, recall, recall at once, or keep.

What holds, whatever the forecast says: as long as demand never rises within one lead by more than the reserve (the
largest rise seen within one lead, and `jump_margin` more), no request meets fewer replicas than it needs because of
lending. Why: at each decision the replicas that serve, or will one lead from now, cover demand plus reserve; lending
leaves that many serving; and until a recall takes effect no more than one lead passes. A larger rise meets the
emergency path: training is killed, and what is short lasts one cold start.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from orchestrator.policy.lending.forecast import Errors, Forecaster, expected_rps, is_due, judge
from orchestrator.policy.lending.history import SLOT_S, History, observe
from orchestrator.policy.lending.values import (
    Decision,
    Emergency,
    Keep,
    Lend,
    LendingReason,
    Recall,
    Standing,
    Terms,
)
from orchestrator.policy.windows import time_left_s

# Before a whole day was seen, nobody knows how demand can jump: it is taken to be able to double within one lead.
_LEARNING_S = 86_400.0
_DAY_S = 86_400.0
# What is worth lending follows a forecast that this share of the last ones stayed below once corrected by it.
_FORECAST_QUANTILE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Demand on an endpoint, requests/s, as measured at `at_s`: live or from a recorded series."""

    at_s: float
    rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What lending remembers between two decisions; a new orchestrator starts with an empty one and is careful."""

    history: History = field(default_factory=History)
    errors: Errors = field(default_factory=Errors)
    lent_s: float | None = None


def decide_lending(
    terms: Terms,
    standing: Standing,
    memory: Memory,
    sample: Sample | None,
    *,
    now_s: float,
    wanted: int | None = None,
    forecast: Forecaster = expected_rps,
) -> tuple[Decision, Memory]:
    """What to do with the devices of one endpoint now.

    `standing` is what was observed; `sample` the newest measurement, None if there never was one; `wanted`: replicas'
    worth of devices that training could use in all, None = any number. Asking again without a change changes nothing.
    """
    memory = _remember(terms, memory, sample, now_s, forecast)
    decision = _decide(terms, standing, memory, now_s, wanted, forecast)
    return decision, replace(memory, lent_s=now_s) if isinstance(decision, Lend) else memory


def reserve_rps(terms: Terms, history: History) -> float:
    """Demand that may come within one lead on top of that of now."""
    known = history.rise_within(terms.times.lead_s) * (1.0 + terms.jump_margin)
    current = history.recent[-1][1] if history.recent else 0.0
    return known if history.seen_s >= _LEARNING_S else max(known, current)


def safe_replicas(terms: Terms, history: History) -> int:
    """Replicas that must serve, or be on their way, so that a rise as large as the reserve is met."""
    if not history.recent:
        return terms.replicas
    return terms.replicas_for(history.recent[-1][1] + reserve_rps(terms, history))


def spare_ahead(
    terms: Terms, memory: Memory, *, now_s: float, span_s: float, forecast: Forecaster = expected_rps
) -> Iterator[tuple[float, int]]:
    """Replicas that are expected to be spare, slot by slot from now over `span_s`: (until when, how many)."""
    reserve, learnt = reserve_rps(terms, memory.history), memory.errors.quantile(_FORECAST_QUANTILE)
    ahead_s = 0.0
    while ahead_s < span_s:
        ahead_s = min(ahead_s + SLOT_S, span_s)
        rps = forecast(memory.history, now_s, now_s + ahead_s, terms.timezone) * learnt
        yield now_s + ahead_s, terms.replicas - terms.replicas_for(rps + reserve)


def _remember(terms: Terms, memory: Memory, sample: Sample | None, now_s: float, forecast: Forecaster) -> Memory:
    if sample is None or (memory.history.last_s is not None and sample.at_s <= memory.history.last_s):
        return memory
    history = observe(
        memory.history,
        at_s=sample.at_s,
        rps=sample.rps,
        lead_s=terms.times.lead_s,
        timezone=terms.timezone,
        keep_s=terms.history_s,
    )
    errors, for_s = judge(memory.errors, now_s=now_s, rps=sample.rps), now_s + terms.slice_and_lead_s
    if is_due(errors, for_s=for_s):
        expected = forecast(history, now_s, for_s, terms.timezone)
        errors = replace(errors, waiting=(*errors.waiting, (for_s, expected)))
    return replace(memory, history=history, errors=errors)


def _decide(
    terms: Terms, standing: Standing, memory: Memory, now_s: float, wanted: int | None, forecast: Forecaster
) -> Decision:
    """First what is urgent, then what is due, then what is worth it."""
    return (
        _emergency(terms, standing, memory.history, now_s)
        or _recall(terms, standing, memory.history, now_s, wanted)
        or _lend(terms, standing, memory, now_s, wanted, forecast)
    )


def _emergency(terms: Terms, standing: Standing, history: History, now_s: float) -> Decision | None:
    """Demand above what serves, or training that has not let go in time: kill it, its state is in the keepers."""
    late = sum(one.replicas for one in standing.returns if not one.left and now_s > _must_leave_s(terms, one.called_s))
    if late:
        detail = f"training still holds {late} replicas' devices {terms.grace_s:.0f} s after they were due"
        return Emergency(replicas=0, reason=LendingReason.LEFT_LATE, detail=detail)
    if _is_stale(terms, history, now_s):
        return None
    rps = history.recent[-1][1]
    if terms.replicas_for(rps) <= standing.serving:
        return None
    short = max(0, safe_replicas(terms, history) - standing.serving - standing.returning)
    slow = any(one.serves_at_s > now_s + terms.times.emergency_s for one in standing.returns)
    if not slow and not min(short, standing.lent):
        return None
    detail = f"{rps:.1f} rps are above what {standing.serving} replicas serve ({_capacity(terms, standing):.1f})"
    return Emergency(replicas=min(short, standing.lent), reason=LendingReason.DEMAND_ABOVE_CAPACITY, detail=detail)


def _is_stale(terms: Terms, history: History, now_s: float) -> bool:
    """Whether demand is not known now: too old, or of a time that a clock which was set back has not reached yet."""
    return not history.recent or abs(now_s - history.recent[-1][0]) > terms.stale_s


def _must_leave_s(terms: Terms, called_s: float) -> float:
    return called_s + terms.times.snapshot_s + terms.times.drain_s + terms.grace_s


def _capacity(terms: Terms, standing: Standing) -> float:
    return standing.serving * terms.replica_rps


def _recall(terms: Terms, standing: Standing, history: History, now_s: float, wanted: int | None) -> Decision | None:
    """What must come back: everything without measurements or at a window's close, else what demand may need."""
    lent, lead_s = standing.lent, terms.times.lead_s
    if not lent:
        return None
    if _is_stale(terms, history, now_s):
        detail = f"demand was not measured for more than {terms.stale_s:.0f} s"
        return Recall(replicas=lent, reason=LendingReason.METRICS_STALE, detail=detail)
    if terms.windows and (left_s := time_left_s(terms.windows, now_s=now_s)) <= lead_s:
        detail = f"the window closes in {left_s:.0f} s and a recall takes {lead_s:.0f} s"
        return Recall(replicas=lent, reason=LendingReason.WINDOW_CLOSES, detail=detail)
    rps, reserve = history.recent[-1][1], reserve_rps(terms, history)
    coming = standing.serving + standing.returning
    if terms.replicas_for(rps + reserve) > coming:
        # Along a rise, what the next minutes ask for comes along: one resize of training instead of one a replica.
        goal = terms.replicas_for(rps + reserve + _slope(history) * terms.settle_s)
        detail = f"{rps:.1f} rps may rise by {reserve:.1f} within {lead_s:.0f} s: {goal} replicas, {coming} are coming"
        return Recall(replicas=min(lent, goal - coming), reason=LendingReason.DEMAND_RISES, detail=detail)
    if wanted is not None and lent > wanted:
        detail = f"training can use {wanted} of {lent}"
        return Recall(replicas=lent - wanted, reason=LendingReason.NOT_WANTED, detail=detail)
    return None


def _slope(history: History) -> float:
    """How fast demand rises, rps a second, over the last lead; 0 when it falls."""
    (from_s, before), (to_s, now) = history.recent[0], history.recent[-1]
    return max(0.0, (now - before) / (to_s - from_s)) if to_s > from_s else 0.0


def _lend(
    terms: Terms, standing: Standing, memory: Memory, now_s: float, wanted: int | None, forecast: Forecaster
) -> Lend | Keep:
    """Lend what is spare now and expected to stay so for a slice; the reserve is never lent."""
    if kept := _closed(terms, memory.history, now_s):
        return kept
    spare = standing.serving - safe_replicas(terms, memory.history)
    if spare <= 0:
        reason = LendingReason.ALL_SPARE_IS_LENT if standing.lent else LendingReason.NOTHING_SPARE
        detail = f"{standing.serving} replicas serve, as many as demand and its reserve need"
        return Keep(reason=reason, detail=detail)
    if wanted is not None and standing.lent >= wanted:
        return Keep(reason=LendingReason.NOT_WANTED, detail=f"training can use {wanted} and has {standing.lent}")
    if memory.lent_s is not None and now_s - memory.lent_s < terms.settle_s:
        return Keep(reason=LendingReason.SETTLING, detail=f"lent {now_s - memory.lent_s:.0f} s ago")
    slice_s = terms.slice_and_lead_s
    lasting = min(free for _, free in spare_ahead(terms, memory, now_s=now_s, span_s=slice_s, forecast=forecast))
    more = min(spare, lasting - standing.lent, spare if wanted is None else wanted - standing.lent)
    if more <= 0:
        detail = f"{spare} spare replicas are expected to be needed again within {slice_s:.0f} s"
        return Keep(reason=LendingReason.SPARE_TOO_SHORT, detail=detail)
    until_s = _lasts_until_s(terms, memory, standing.lent + more, now_s, forecast)
    hours = (until_s - now_s) / 3600
    detail = f"{spare} of {standing.serving} serving replicas are spare, {more} of them for {hours:.1f} h or more"
    return Lend(replicas=more, until_s=until_s, reason=LendingReason.SPARE_FOR_A_SLICE, detail=detail)


def _closed(terms: Terms, history: History, now_s: float) -> Keep | None:
    """Why nothing can be lent at this hour or without measurements."""
    if _is_stale(terms, history, now_s):
        return Keep(reason=LendingReason.METRICS_STALE, detail="demand is not known")
    if not terms.windows:
        return None
    left_s, needed_s = time_left_s(terms.windows, now_s=now_s), terms.slice_and_lead_s
    if left_s <= 0:
        return Keep(reason=LendingReason.OUTSIDE_WINDOW, detail="no window is open")
    if left_s < needed_s:
        detail = f"the window closes in {left_s:.0f} s; a slice and its recall take {needed_s:.0f} s"
        return Keep(reason=LendingReason.WINDOW_TOO_SHORT, detail=detail)
    return None


def _lasts_until_s(terms: Terms, memory: Memory, lent: int, now_s: float, forecast: Forecaster) -> float:
    """Until when so many are expected to stay spare: a day at most, and never past a window's close."""
    end_s = now_s + _DAY_S
    if terms.windows:
        end_s = min(end_s, now_s + time_left_s(terms.windows, now_s=now_s) - terms.times.lead_s)
    ahead = spare_ahead(terms, memory, now_s=now_s, span_s=end_s - now_s, forecast=forecast)
    return next((at_s - SLOT_S for at_s, free in ahead if free < lent), end_s)


def explain(decision: Decision, *, now_s: float) -> str:
    """One line for logs and people: when, what, why."""
    at = dt.datetime.fromtimestamp(now_s, dt.UTC).strftime("%H:%M:%SZ")
    match decision:
        case Lend(replicas=replicas):
            what = f"lend {replicas}"
        case Recall(replicas=replicas):
            what = f"recall {replicas}"
        case Emergency(replicas=replicas):
            what = f"recall {replicas} at once"
        case Keep():
            what = "keep"
    return f"{at} {what} ({decision.reason}): {decision.detail}"
