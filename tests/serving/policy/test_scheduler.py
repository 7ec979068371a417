"""What the tier scheduler promises, scenario by scenario, in virtual time."""

from __future__ import annotations

import dataclasses
import math

import pytest

from serving.policy import Admitted, Idle, RefusalReason, Refused, StepPlan, Tier, TierScheduler, TierTarget, admission
from serving.policy.admission import decide
from serving.policy.rows import Row
from serving.policy.rules import Rules
from tests.serving.policy.simulator import simulate
from tests.serving.policy.worlds import CONFIG, MODEL, SLOTS, backlog, request, scheduler


def run(requests, *, config=CONFIG, slots=SLOTS, **options):
    return simulate(scheduler(config, slots), requests, num_slots=slots, step_s=MODEL.predict_s, **options)


def test_every_admitted_request_gets_exactly_its_tokens() -> None:
    requests = [request(f"k{i}", Tier.KEYSTROKE, i * 0.2, tokens=1 + i) for i in range(5)] + backlog(20)
    out = run(requests)
    assert out.tokens == {row.id: row.max_tokens for row in requests}
    assert not out.refused


def test_a_keystroke_overtakes_a_full_batch_backlog() -> None:
    out = run([*backlog(100), request("k", Tier.KEYSTROKE, 2.0)], until_s=4.0)
    assert out.finish_s["k"] - 2.0 <= 0.3


def test_batch_uses_every_slot_while_nobody_waits() -> None:
    out = run(backlog(2 * SLOTS))
    widest = max(len(plan.work) for plan in out.plans)
    assert widest == SLOTS


def test_a_parked_batch_row_goes_on_where_it_was() -> None:
    out = run([*backlog(1, tokens=50), request("k", Tier.KEYSTROKE, 0.2)], slots=1)
    assert out.tokens == {"b0000": 50, "k": 8}
    ((parked,),) = [plan.park for plan in out.plans if plan.park]
    assert parked[:2] == ("b0000", 0)
    assert [plan.resume for plan in out.plans if plan.resume] == [(("b0000", 0),)]


def test_batch_keeps_its_share_under_online_pressure() -> None:
    pressure = [request(f"i{i}", Tier.INTERACTIVE, i * 0.12, tokens=32) for i in range(120)]
    out = run([*pressure, *backlog(200)], until_s=12.0)
    assert out.batch_s / out.busy_s >= CONFIG.batch_share * 0.98


def test_without_the_share_batch_would_starve() -> None:
    """The check above can fail."""
    config = dataclasses.replace(CONFIG, batch_share=0.0)
    pressure = [request(f"i{i}", Tier.INTERACTIVE, i * 0.12, tokens=32, deadline_s=i * 0.12 + 0.5) for i in range(120)]
    out = run([*pressure, *backlog(200)], config=config, until_s=12.0)
    assert out.batch_s / out.busy_s < CONFIG.batch_share


def test_a_batch_row_near_its_deadline_is_promoted() -> None:
    due = request("due", Tier.BATCH, tokens=20, deadline_s=0.6)
    other = request("other", Tier.BATCH, tokens=200)
    out = run([other, due], slots=1)
    assert out.finish_s["due"] <= 0.6


def test_the_newest_keystroke_of_a_session_supersedes_the_older() -> None:
    keys = [request(f"k{i}", Tier.KEYSTROKE, i * 0.05, session="editor") for i in range(3)]
    out = run(keys)
    assert out.superseded == {"k0", "k1"}
    assert set(out.finish_s) == {"k2"}


def test_sessions_do_not_supersede_each_other_nor_other_tiers() -> None:
    mixed = [
        request("a", Tier.KEYSTROKE, 0.0, session="one"),
        request("b", Tier.KEYSTROKE, 0.01, session="two"),
        request("c", Tier.INTERACTIVE, 0.02, session="one"),
        request("d", Tier.KEYSTROKE, 0.03),
    ]
    out = run(mixed)
    assert out.superseded == set()
    assert set(out.finish_s) == {"a", "b", "c", "d"}


def test_a_refused_keystroke_does_not_end_its_predecessor() -> None:
    keys = [request("old", Tier.KEYSTROKE, 0.0, session="editor")]
    keys.append(request("new", Tier.KEYSTROKE, 0.01, prompt=64 * 20, session="editor"))
    others = [request(f"x{i}", Tier.KEYSTROKE, 0.0) for i in range(2)]
    out = run([*keys, *others])
    assert out.refused["new"].reason is RefusalReason.WOULD_BE_LATE
    assert "old" in out.finish_s


def test_a_cancelled_row_frees_its_slot_in_the_next_plan() -> None:
    replica = scheduler(slots=1)
    replica.submit(request("a", Tier.INTERACTIVE), now_s=0.0)
    plan = replica.plan(now_s=0.0)
    assert isinstance(plan, StepPlan)
    assert replica.remove("a")
    replica.complete(plan, elapsed_s=0.01)
    assert replica.plan(now_s=0.01) == StepPlan(free=(0,))
    assert replica.plan(now_s=0.01) == Idle()


def test_batch_alone_collects_before_it_starts_unless_the_slots_are_full() -> None:
    config = dataclasses.replace(CONFIG, collect_s=30.0)
    alone = run([request("b", Tier.BATCH)], config=config)
    assert alone.first_token_s["b"] >= 30.0
    woken = run([request("b", Tier.BATCH), request("k", Tier.KEYSTROKE, 5.0)], config=config)
    assert woken.finish_s["k"] < 5.3
    full = run([request(f"b{i}", Tier.BATCH) for i in range(SLOTS)], config=config)
    assert full.first_token_s["b0"] < 1.0


def test_a_full_queue_refuses_with_a_time_that_grows_with_the_backlog() -> None:
    tight = dataclasses.replace(CONFIG.targets[Tier.BATCH], max_waiting=4)
    config = dataclasses.replace(CONFIG, targets={**CONFIG.targets, Tier.BATCH: tight})
    replica = scheduler(config)
    verdicts = [replica.submit(row, now_s=0.0) for row in backlog(5)]
    assert verdicts[-1].reason is RefusalReason.QUEUE_FULL  # type: ignore[union-attr]
    assert verdicts[-1].retry_after_s > 0  # type: ignore[union-attr]


def test_retrying_at_the_hinted_time_is_admitted_when_nothing_else_arrived() -> None:
    burst = [request(f"k{i:02}", Tier.KEYSTROKE, 0.0) for i in range(30)]
    first = run(burst)
    assert first.refused
    for request_id, refusal in first.refused.items():
        again = request(f"{request_id}r", Tier.KEYSTROKE, refusal.retry_after_s + 1e-6)
        assert f"{request_id}r" in run([*burst, again]).finish_s


def test_a_request_too_slow_for_its_tier_is_served_when_nothing_stands_in_its_way() -> None:
    out = run([request("slow", Tier.KEYSTROKE, tokens=200)])
    assert "slow" in out.finish_s


def test_a_late_request_is_served_within_another_allowance_under_steady_overload() -> None:
    flood = [request(f"k{i:03}", Tier.KEYSTROKE, i * 0.03) for i in range(200)]
    out = simulate(scheduler(), [request("late", Tier.KEYSTROKE, 0.0, tokens=16), *flood], num_slots=SLOTS,
                   step_s=lambda shape: 1.5 * MODEL.predict_s(shape))  # fmt: skip
    assert max(out.finish_s[row.id] - row.arrival_s for row in flood if row.id in out.finish_s) < 3.0


def test_an_answer_that_is_hopelessly_late_closes_the_replica_to_nobody() -> None:
    endless = TierScheduler(
        CONFIG, num_slots=SLOTS, model=dataclasses.replace(MODEL, weights=(*MODEL.weights[:-1], 0.0))
    )
    endless.submit(request("endless", Tier.KEYSTROKE, tokens=1_000_000), now_s=0.0)
    now_s = 0.0
    for _ in range(3):
        plan = endless.plan(now_s=now_s)
        assert isinstance(plan, StepPlan)
        now_s += plan.predicted_s
        endless.complete(plan, elapsed_s=plan.predicted_s)
    for tier in (Tier.KEYSTROKE, Tier.INTERACTIVE):
        assert isinstance(endless.submit(request(tier.name, tier, now_s, tokens=2), now_s=now_s), Admitted)


def test_keystrokes_that_arrive_together_share_steps_instead_of_queueing() -> None:
    out = run([request(f"k{i}", Tier.KEYSTROKE) for i in range(5)])
    assert not out.refused
    assert max(len(plan.work) for plan in out.plans) > 1


@pytest.mark.parametrize("tier", list(Tier))
def test_an_idle_engine_starts_any_tier_at_once(tier: Tier) -> None:
    out = run([request("a", tier)])
    assert out.first_token_s["a"] <= 0.1


def test_a_live_id_and_a_tier_that_is_not_offered_are_mistakes_of_the_caller() -> None:
    replica = scheduler()
    replica.submit(request("a", Tier.BATCH), now_s=0.0)
    with pytest.raises(ValueError, match="here already"):
        replica.submit(request("a", Tier.BATCH), now_s=0.0)
    only_batch = dataclasses.replace(CONFIG, targets={Tier.BATCH: CONFIG.targets[Tier.BATCH]})
    with pytest.raises(ValueError, match="not offered"):
        scheduler(only_batch).submit(request("k", Tier.KEYSTROKE), now_s=0.0)


def test_a_decision_looks_at_no_more_rows_when_thousands_wait() -> None:
    """Played forward to its end, this queue would take minutes, and the engine stands still meanwhile."""
    targets = {Tier.INTERACTIVE: TierTarget(latency_s=3600.0, max_waiting=10_000)}
    rules = Rules(config=dataclasses.replace(CONFIG, targets=targets), model=MODEL, num_slots=SLOTS)
    asked = [request(f"r{i:04}", Tier.INTERACTIVE, deadline_s=3600.0, tokens=400) for i in range(2001)]
    rows = [Row(request=each) for each in asked[:-1]]
    verdict = decide(asked[-1], rows, rules, num_waiting=2000, now_s=0.0, free_at_s=0.0)
    assert isinstance(verdict, Refused)
    assert 0 < verdict.retry_after_s < math.inf


@pytest.mark.parametrize("num_looks", [3, 10, 20, 30, 40, 60, 10_000])
def test_what_cannot_be_looked_at_to_its_end_is_no_reason_to_admit(
    monkeypatch: pytest.MonkeyPatch, num_looks: int
) -> None:
    """The slow row would be in time by itself and is late with the keystroke, however little of that is seen."""
    monkeypatch.setattr(admission, "_MAX_EFFORT", num_looks)
    rules = Rules(config=CONFIG, model=MODEL, num_slots=SLOTS)
    slow = Row(request=request("slow", Tier.INTERACTIVE, tokens=40, deadline_s=0.32))
    asked = request("k", Tier.KEYSTROKE)
    alone = decide(slow.request, [], rules, num_waiting=0, now_s=0.0, free_at_s=0.0)
    verdict = decide(asked, [slow], rules, num_waiting=0, now_s=0.0, free_at_s=0.0)
    assert isinstance(alone, Admitted)
    assert num_looks < 10_000 or alone.predicted_finish_s <= slow.request.deadline_s
    assert isinstance(verdict, Refused)
