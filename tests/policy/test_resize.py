"""The resize policy: forced shrinking at once, growing only when it pays, nothing twice."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.resize import (
    Conditions,
    Hold,
    Outlook,
    Resize,
    ResizeReason,
    ResizeRules,
    ResizeState,
    RunPlan,
    Suspend,
    choose_world_size,
)

RULES = ResizeRules(dwell_s=120, settle_s=20, collect_s=30, margin=0.1)
PLAN = RunPlan(batch=BatchPlan(1200, 1), min_workers=100, max_workers=200, rules=RULES)
LONG = (Outlook(workers=1000, expected_s=3600),)
SETTLED = ResizeState(resized_s=-1000, offered_workers=150, offered_since_s=-1000)


def at(running, usable, **changes):
    values = {"outlook": LONG, "stall_s": 10.0, "stop_s": 3.0} | changes
    return Conditions(running_workers=running, usable_workers=usable, **values)


SCENARIOS = {
    # what happens: (plan changes, conditions, state, now_s) -> (decision, workers, reason)
    "enough to start": ({}, at(0, 150), ResizeState(), (Resize, 150, "start")),
    "start at a useful size": ({}, at(0, 149), ResizeState(), (Resize, 134, "start")),
    "never above max": ({}, at(0, 500), ResizeState(), (Resize, 200, "start")),
    "too few to start": ({}, at(0, 99), ResizeState(), (Hold, None, "below_min")),
    "start without any forecast": ({}, at(0, 150, outlook=()), ResizeState(), (Resize, 150, "start")),
    "workers gone": ({}, at(150, 140), SETTLED, (Resize, 134, "workers_leave")),
    "workers gone below min": ({}, at(150, 99), SETTLED, (Suspend, None, "below_min")),
    "workers gone inside the dwell": (
        {},
        at(150, 140),
        replace(SETTLED, resized_s=-1),
        (Resize, 134, "workers_leave"),
    ),
    "departure far away is collected": (
        {},
        at(150, 149, departure_s=120),
        SETTLED,
        (Hold, None, "collecting_departures"),
    ),
    "departure close by is not": ({}, at(150, 149, departure_s=3), SETTLED, (Resize, 134, "workers_leave")),
    "collected long enough": (
        {},
        at(150, 140, departure_s=60),
        replace(SETTLED, departing_since_s=-30),
        (Resize, 134, "workers_leave"),
    ),
    "group broke, nothing lost": ({}, at(150, 150, broken=True), SETTLED, (Resize, 150, "restart")),
    "a restart takes growth along": (
        {},
        at(110, 172, broken=True),
        replace(SETTLED, resized_s=-1),
        (Resize, 172, "restart"),
    ),
    "leaving and arriving at once": ({}, at(150, 149), replace(SETTLED, resized_s=-1), (Resize, 134, "workers_leave")),
    "a short-lived surplus is not taken along": (
        {},
        at(150, 150, broken=True, outlook=(Outlook(workers=120, expected_s=9999), Outlook(workers=150, expected_s=5))),
        SETTLED,
        (Resize, 120, "restart"),
    ),
    "growing pays": ({}, at(110, 150), SETTLED, (Resize, 150, "gain_outlives_stall")),
    "growing does not last": (
        {},
        at(110, 150, outlook=(Outlook(workers=150, expected_s=30),)),
        SETTLED,
        (Hold, None, "gain_below_stall"),
    ),
    "the stable part of an offer is taken": (
        {},
        at(100, 150, outlook=(Outlook(workers=120, expected_s=3600), Outlook(workers=150, expected_s=20))),
        SETTLED,
        (Resize, 120, "gain_outlives_stall"),
    ),
    "nobody forecasts": ({}, at(110, 150, outlook=()), SETTLED, (Hold, None, "gain_below_stall")),
    "no faster size": ({}, at(150, 171), replace(SETTLED, offered_workers=171), (Hold, None, "best_size_already")),
    "growing inside the dwell": ({}, at(110, 150), replace(SETTLED, resized_s=-10), (Hold, None, "dwell")),
    "the offer is new": ({}, at(110, 150), replace(SETTLED, offered_workers=140), (Hold, None, "settling")),
    "pinned larger": ({"pinned_workers": 130}, at(110, 150), SETTLED, (Resize, 130, "pinned")),
    "pinned smaller": ({"pinned_workers": 105}, at(110, 150), SETTLED, (Resize, 105, "pinned")),
    "pinned as it is": ({"pinned_workers": 110}, at(110, 150), SETTLED, (Hold, None, "pinned")),
    "pinned above what there is": ({"pinned_workers": 190}, at(110, 150), SETTLED, (Resize, 150, "pinned")),
    "pinned and workers gone": ({"pinned_workers": 140}, at(150, 120), SETTLED, (Resize, 120, "workers_leave")),
    "pinned below min": ({"pinned_workers": 7}, at(110, 150), SETTLED, (Resize, 100, "pinned")),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name):
    changes, now, state, (kind, workers, reason) = SCENARIOS[name]
    decision, _ = choose_world_size(replace(PLAN, **changes), now, state, now_s=0.0)
    assert type(decision) is kind
    assert getattr(decision, "workers", None) == workers
    assert decision.reason == ResizeReason(reason)


def test_drains_that_come_together_cause_one_resize():
    state, decisions = SETTLED, []
    for now_s, usable, departure_s in [(0, 140, 120), (5, 130, 120), (29, 130, 120), (30, 125, 120), (31, 125, 120)]:
        running = decisions[-1].workers if decisions else 150
        decision, state = choose_world_size(PLAN, at(running, usable, departure_s=departure_s), state, now_s=now_s)
        decisions += [decision] if isinstance(decision, Resize) else []
    assert [d.workers for d in decisions] == [120]


def test_arrivals_that_come_together_cause_one_resize():
    state, sizes = SETTLED, []
    for now_s, usable in [(0, 151), (10, 160), (19, 172), (25, 172), (39, 172), (45, 172)]:
        decision, state = choose_world_size(PLAN, at(sizes[-1] if sizes else 150, usable), state, now_s=now_s)
        sizes += [decision.workers] if isinstance(decision, Resize) else []
    assert sizes == [172]


def test_a_hold_that_waits_says_until_when_and_then_acts():
    state = replace(SETTLED, resized_s=-10.0)
    decision, state = choose_world_size(PLAN, at(110, 150), state, now_s=0.0)
    assert decision.wake_at_s == 110.0
    decision, _ = choose_world_size(PLAN, at(110, 150), state, now_s=decision.wake_at_s)
    assert isinstance(decision, Resize)


def test_growth_follows_the_arithmetic_of_the_stall():
    """From 110 to 150 the throughput rises from 1/11 to 1/8: worth 11 s with margin only after 11 / (1 - 8/11) s."""
    worth_s = 10.0 * 1.1 / (1 - 8 / 11)
    for lasting_s, kind in [(worth_s * 0.999, Hold), (worth_s * 1.001, Resize)]:
        now = at(110, 150, outlook=(Outlook(workers=150, expected_s=lasting_s),))
        decision, _ = choose_world_size(PLAN, now, SETTLED, now_s=0.0)
        assert isinstance(decision, kind)


plans = st.builds(
    RunPlan,
    batch=st.builds(BatchPlan, st.integers(1, 3000), st.integers(1, 8)),
    min_workers=st.integers(1, 150),
    max_workers=st.integers(150, 300),
    rules=st.builds(
        ResizeRules,
        dwell_s=st.floats(0, 600),
        settle_s=st.floats(0, 100),
        collect_s=st.floats(0, 100),
        margin=st.floats(0, 2),
    ),
    pinned_workers=st.none() | st.integers(1, 400),
)
conditions = st.builds(
    Conditions,
    running_workers=st.just(0) | st.integers(1, 300),
    usable_workers=st.integers(0, 400),
    outlook=st.lists(st.builds(Outlook, workers=st.integers(0, 400), expected_s=st.floats(0, 1e6)), max_size=5).map(
        tuple
    ),
    stall_s=st.floats(0, 600),
    stop_s=st.floats(0, 60),
    departure_s=st.none() | st.floats(-100, 1000),
    broken=st.booleans(),
)
states = st.builds(
    ResizeState,
    resized_s=st.none() | st.floats(-1000, 0),
    offered_workers=st.none() | st.integers(0, 400),
    offered_since_s=st.floats(-1000, 0),
    departing_since_s=st.none() | st.floats(-1000, 0),
)


@settings(deadline=None, max_examples=400)
@given(plan=plans, now=conditions, state=states, data=st.data())
def test_bounds_usefulness_and_order_independence(plan, now, state, data):
    decision, after = choose_world_size(plan, now, state, now_s=0.0)
    if isinstance(decision, Resize):
        assert plan.min_workers <= decision.workers <= min(plan.max_workers, now.usable_workers)
        if plan.pinned_workers is None:
            assert decision.workers in plan.batch.useful_sizes(plan.min_workers, plan.max_workers)
    if isinstance(decision, Hold) and decision.wake_at_s is not None:
        assert decision.wake_at_s > 0.0
        assert math.isfinite(decision.wake_at_s)
    shuffled = replace(now, outlook=tuple(data.draw(st.permutations(now.outlook))))
    assert choose_world_size(plan, shuffled, state, now_s=0.0) == (decision, after)


@settings(deadline=None, max_examples=400)
@given(plan=plans, now=conditions, state=states)
def test_a_forced_shrink_is_never_delayed(plan, now, state):
    """Gone, or to be gone before the state would be safe: answered in this very call, whatever the rules say."""
    forced = now.running_workers > 0 and now.usable_workers < now.running_workers
    must_go = now.departure_s is None or now.departure_s - now.stop_s <= 0 or now.broken
    if forced and must_go:
        decision, _ = choose_world_size(plan, now, state, now_s=0.0)
        assert not isinstance(decision, Hold)
    if forced and not must_go:
        decision, after = choose_world_size(plan, now, state, now_s=0.0)
        if isinstance(decision, Hold):
            assert decision.wake_at_s <= now.departure_s - now.stop_s
            later, _ = choose_world_size(plan, now, after, now_s=decision.wake_at_s)
            assert not isinstance(later, Hold)


@settings(deadline=None, max_examples=200)
@given(plan=plans, now=conditions, state=states, longer_s=st.floats(0, 1e6))
def test_a_longer_outlook_never_turns_growth_down(plan, now, state, longer_s):
    decision, _ = choose_world_size(plan, now, state, now_s=0.0)
    longer = replace(now, outlook=tuple(replace(o, expected_s=o.expected_s + longer_s) for o in now.outlook))
    again, _ = choose_world_size(plan, longer, state, now_s=0.0)
    if decision.reason == ResizeReason.GAIN_OUTLIVES_STALL:
        assert again.reason == ResizeReason.GAIN_OUTLIVES_STALL


def test_hold_without_dwell_would_flap():
    """The rules matter: with none of them an offer that comes and goes resizes every time."""
    loose = replace(PLAN, rules=ResizeRules(dwell_s=0, settle_s=0, collect_s=0, margin=0))
    counts = {}
    for name, plan in {"loose": loose, "ruled": PLAN}.items():
        state, running, counts[name] = SETTLED, 110, 0
        for now_s in range(0, 600, 15):
            usable = 150 if (now_s // 15) % 2 else 110
            decision, state = choose_world_size(plan, at(running, usable), state, now_s=now_s)
            if isinstance(decision, Resize):
                running, counts[name] = decision.workers, counts[name] + 1
    assert counts["loose"] > 20
    assert counts["ruled"] == 0
