"""Budgets and grants: integers, rounded once and against the spender; what is not used goes back exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.money import cost_micro_usd
from orchestrator.policy.queueing.parties import Purse, Tenant
from orchestrator.policy.queueing.places import flat_pool
from orchestrator.policy.queueing.values import Spending
from tests.policy.queueing.build import apply, changes, hold, job, snapshot, started, verdicts, waits

DOLLAR_AN_HOUR = (flat_pool("pool", 8, micro_usd_per_device_hour=1_000_000),)


@pytest.mark.parametrize(("device_ms", "price", "micro_usd"), [(3_600_000, 2_410_000, 2_410_000), (1, 1, 1), (0, 9, 0)])
def test_prices_round_against_the_spender(device_ms, price, micro_usd):
    assert cost_micro_usd(device_ms, price) == micro_usd


def spend(purse, *jobs, **more):
    tenants = (Tenant(name="red", purse=purse),)
    return decide_queues(snapshot(pools=DOLLAR_AN_HOUR, tenants=tenants, waiting=jobs, **more))


def test_a_start_sets_its_cost_aside():
    decisions = spend(Purse(micro_usd=5_000_000), job("j", 2, work_s=7200.0))
    assert verdicts(decisions)["j"].reserve == Purse(micro_usd=2_000_000)


def test_two_jobs_do_not_spend_the_same_money():
    decisions = spend(Purse(micro_usd=3_000_000), job("a", 2, work_s=7200.0), job("b", 2, work_s=7200.0))
    assert (started(decisions), waits(decisions)) == ({"a": 2}, {"b": "BudgetReserved"})


def test_the_books_remember_what_was_set_aside():
    first = snapshot(
        pools=DOLLAR_AN_HOUR,
        tenants=(Tenant(name="red", purse=Purse(micro_usd=3_000_000)),),
        waiting=(job("a", 2, work_s=7200.0), job("b", 2, work_s=7200.0)),
    )
    after = apply(first, decide_queues(first))
    assert waits(decide_queues(after)) == {"b": "BudgetReserved"}


@pytest.mark.parametrize(
    ("purse", "reserve"),
    [
        (Purse(iterations=200, micro_usd=10**9), Purse(iterations=200)),
        (Purse(iterations=199, device_ms=10**9), Purse(device_ms=7_200_000)),
        (Purse(iterations=199, device_ms=1, micro_usd=10**9), Purse(micro_usd=2_000_000)),
    ],
)
def test_granted_steps_pay_before_device_time_before_money(purse, reserve):
    decisions = spend(purse, job("j", 2, work_s=7200.0, steps_left=200))
    assert verdicts(decisions)["j"].reserve == reserve


def test_a_job_that_has_made_all_its_granted_steps_may_end():
    """Whoever was preempted while it evaluated has no step left to pay for."""
    decisions = spend(Purse(), job("j", 2, steps_left=0))
    assert (started(decisions), verdicts(decisions)["j"].reserve) == ({"j": 2}, Purse())


def test_a_job_beyond_its_grant_is_told_what_it_needs_and_what_is_left():
    decisions = spend(Purse(iterations=200, micro_usd=500_000), job("j", 2, work_s=7200.0, steps_left=201))
    why = decisions.verdict("j").why
    assert why.detail == (
        "needs 2.00 dollars, or 2.00 device-hours, or 201 steps; "
        "tenant 'red' has 0.50 dollars, 200 steps left of what it was granted"
    )


def test_who_cannot_pay_is_told_what_is_a_guess_and_what_others_have():
    decisions = spend(Purse(iterations=200), job("a", 2, steps_left=150), job("b", 2, steps_left=201))
    why = decisions.verdict("b").why
    assert "device-hours (for 1d: nobody knows how long it runs), or 201 steps; " in why.detail
    assert why.detail.endswith(
        "has 200 steps left of what it was granted, 150 steps of it set aside for its other jobs"
    )


def test_a_small_budget_of_its_own_is_all_that_is_set_aside():
    limited = job("j", 2, work_s=7200.0, spending=Spending(micro_usd=500_000))
    decisions = spend(Purse(micro_usd=600_000), limited)
    assert verdicts(decisions)["j"].reserve == Purse(micro_usd=500_000)


def test_a_spent_budget_ends_the_job():
    spent = job("j", 2, spending=Spending(device_ms=0))
    decisions = decide_queues(hold(snapshot(), spent, 2))
    assert changes(decisions) == {"j": ("budget_spent", 0)}
    assert not decisions.changes[0].requeue


def test_nobody_gives_up_devices_for_a_job_that_cannot_pay():
    tenants = (Tenant(name="red", purse=Purse(micro_usd=1)), Tenant(name="blue"))
    low, high = job("low", range(2, 5), tenant="blue", priority=10), job("high", 4, priority=90, work_s=7200.0)
    snap = hold(snapshot(4, pools=(flat_pool("pool", 4, micro_usd_per_device_hour=10**6),), tenants=tenants), low, 4)
    decisions = decide_queues(replace(snap, waiting=(high,)))
    assert (changes(decisions), decisions.claims, decisions.promises) == ({}, (), ())
    assert waits(decisions) == {"high": "BudgetExhausted"}
