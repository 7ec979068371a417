"""Laws of the tier scheduler over random loads, with a step model that is exact."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.policy import Request, Tier
from serving.policy.reserve import moved
from tests.serving.policy.simulator import Outcome, simulate
from tests.serving.policy.worlds import CONFIG, MODEL, backlog, request, scheduler

_TIERS = st.sampled_from([Tier.KEYSTROKE, Tier.INTERACTIVE, Tier.BATCH])


@st.composite
def loads(draw: st.DrawFn) -> tuple[int, list[Request]]:
    """Slots, and up to 25 requests within two seconds, from light to hopeless."""
    count = draw(st.integers(1, 25))
    rows = []
    for index in range(count):
        tier = draw(_TIERS)
        at_s, prompt, tokens = draw(st.floats(0, 2)), draw(st.integers(1, 150)), draw(st.integers(1, 24))
        rows.append(request(f"r{index:02}", tier, at_s, prompt=prompt, tokens=tokens))
    return draw(st.integers(1, 8)), rows


def run(slots: int, rows: list[Request]) -> Outcome:
    return simulate(scheduler(slots=slots), rows, num_slots=slots, step_s=MODEL.predict_s)


@given(loads(), st.sampled_from([0, 12]))
@settings(max_examples=80, deadline=None)
def test_no_admitted_request_is_late_and_none_is_lost(load: tuple[int, list[Request]], waiting: int) -> None:
    """But by the one step that the batch rows' share buys: it cannot be divided, a forecast spreads it evenly."""
    slots, rows = load
    rows = [after_batch(row) for row in [*rows, *backlog(waiting)]]
    out = run(slots, rows)
    bought_s = max((plan.batch_s for plan in out.plans), default=0.0)
    for row in rows:
        assert (row.id in out.finish_s) == (row.id in out.admitted)
        if row.id in out.admitted and out.admitted[row.id].predicted_finish_s <= row.deadline_s:
            assert out.finish_s[row.id] <= row.deadline_s + bought_s + 1e-9, row


def after_batch(row: Request) -> Request:
    """Batch rows are there first: later ones are never refused, and take a slot from those admitted without them."""
    is_batch = row.tier is Tier.BATCH
    return dataclasses.replace(row, arrival_s=0.0) if is_batch else moved(row, row.arrival_s + 1e-6)


@given(loads())
@settings(max_examples=60, deadline=None)
def test_the_engine_never_idles_with_work_at_hand(load: tuple[int, list[Request]]) -> None:
    out = run(*load)
    assert out.idle_with_work_s == 0
    assert all(plan.work for plan in out.plans if not plan.free)


@given(loads(), st.sampled_from([0.05, 0.2, 0.4]))
@settings(max_examples=40, deadline=None)
def test_batch_never_gets_less_than_its_share(load: tuple[int, list[Request]], share: float) -> None:
    slots, rows = load
    config = dataclasses.replace(CONFIG, batch_share=share)
    online = [row for row in rows if row.tier.is_online]
    out = simulate(scheduler(config, slots), [*online, *backlog(300)], num_slots=slots, step_s=MODEL.predict_s,
                   until_s=3.0)  # fmt: skip
    longest_s = max(MODEL.predict_s(plan.shape) for plan in out.plans)
    assert out.batch_s >= share * out.busy_s - (1 + share) * longest_s  # a debt may lack a moment to pay for a step


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_batch_keeps_its_share_while_online_rows_want_every_slot(slots: int, share: float) -> None:
    tiers = [Tier.KEYSTROKE, Tier.INTERACTIVE, Tier.INTERACTIVE]
    online = [request(f"r{i:02}", tiers[i % 3], i / 40, prompt=40, tokens=16) for i in range(40)]
    config = dataclasses.replace(CONFIG, batch_share=share)
    out = simulate(scheduler(config, slots), [*online, *backlog(9)], num_slots=slots, step_s=MODEL.predict_s,
                   until_s=1.0)  # fmt: skip
    longest_s = max(MODEL.predict_s(plan.shape) for plan in out.plans)
    assert out.batch_s >= share * out.busy_s - (1 + share) * longest_s  # a debt may lack a moment to pay for a step
    assert any(row.id in out.finish_s for row in online)


@given(loads(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_in_which_equal_arrivals_are_listed_changes_nothing(
    load: tuple[int, list[Request]], shuffler: random.Random
) -> None:
    slots, rows = load
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert run(slots, rows).finish_s == run(slots, shuffled).finish_s


@given(loads(), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 24)), max_size=10))
@settings(max_examples=80, deadline=None)
def test_cancelling_at_any_moment_leaves_every_slot_sound(
    load: tuple[int, list[Request]], moments: list[tuple[float, int]]
) -> None:
    slots, rows = load
    cancels = [(at_s, f"r{index:02}") for at_s, index in moments]
    out = simulate(scheduler(slots=slots), rows, num_slots=slots, step_s=MODEL.predict_s, cancels=cancels)
    for row in rows:
        fates = [row.id in fate for fate in (out.finish_s, out.refused, out.cancelled)]
        assert sum(fates) == 1, row
