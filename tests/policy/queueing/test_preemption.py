"""Who gives devices to whom: by which right, how many, in which order, and who is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.parties import Contribution, Tenant
from orchestrator.policy.queueing.values import LeaseState
from tests.policy.queueing.build import apply, changes, hold, job, queue, settle, snapshot, started, waits, why

HIGH = job("high", 4, priority=90)
OWNER = Tenant(name="blue", contributions=(Contribution(pool="pool", devices=4, recall_grace_s=300.0),))
COHORT = (queue("x", 4, cohort="all"), queue("y", 4, cohort="all"))


def low(name, sizes, workers, **more):
    return job(name, sizes, **({"priority": 10} | more)), workers


SCENARIOS = {
    # what is so: (snapshot, what becomes of running jobs)
    "shrinking is enough": (
        snapshot(running=(low("a", range(1, 9), 8),), waiting=(HIGH,)),
        {"a": ("priority", 4)},
    ),
    "as little as a useful size allows": (
        snapshot(running=(low("a", range(2, 9, 3), 8),), waiting=(job("high", 1, priority=90),)),
        {"a": ("priority", 5)},
    ),
    "shrinking comes before stopping": (
        snapshot(running=(low("a", 4, 4), low("b", range(1, 5), 4)), waiting=(job("high", 3, priority=90),)),
        {"b": ("priority", 1)},
    ),
    "stopping spares who need not shrink after all": (
        snapshot(running=(low("a", 4, 4), low("b", range(1, 5), 4)), waiting=(HIGH,)),
        {"a": ("priority", 0)},
    ),
    "nobody of the same class": (snapshot(running=((job("a", 8, priority=90), 8),), waiting=(HIGH,)), {}),
    "nobody who has only just started": (
        snapshot(queues=(queue(min_run_s=2000.0),), running=(low("a", 8, 8),), waiting=(HIGH,)),
        {},
    ),
    "a queue takes its own back": (
        snapshot(
            queues=COHORT,
            running=((job("a", 4, queue="y"), 4), (job("b", 4, queue="y"), 4)),
            waiting=(job("c", 4, queue="x"),),
        ),
        {"b": ("reclaim", 0)},
    ),
    "but not more than its own": (
        snapshot(queues=COHORT, running=((job("a", 8, queue="y"), 8),), waiting=(job("c", 5, queue="x"),)),
        {},
    ),
    "as much of its own as it can use": (
        snapshot(
            queues=COHORT,
            running=((job("a", range(1, 9), queue="y"), 8),),
            waiting=(job("c", range(1, 9), queue="x"),),
        ),
        {"a": ("reclaim", 4)},
    ),
    "an owner recalls what it brought": (
        snapshot(
            tenants=(OWNER, Tenant(name="red")),
            queues=(queue(min_run_s=2000.0),),
            running=((job("a", range(1, 9), priority=90), 8),),
            waiting=(job("mine", 4, tenant="blue", priority=10),),
        ),
        {"a": ("recall", 4)},
    ),
    "and nobody takes it from the owner": (
        snapshot(
            tenants=(OWNER, Tenant(name="red")),
            running=((job("mine", 4, tenant="blue", priority=10), 4), (job("a", 4, priority=90), 4)),
            waiting=(HIGH,),
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_who_gives_what(name):
    snap, expected = SCENARIOS[name]
    assert changes(decide_queues(snap)) == expected


@pytest.mark.parametrize(
    ("first", "second", "stopped"),
    [
        ({"lost_work_s": 9.0}, {"lost_work_s": 1.0}, "b"),
        ({"lost_work_s": 1.0, "checkpoint_age_s": 9.0}, {"lost_work_s": 1.0, "checkpoint_age_s": 1.0}, "b"),
        ({"lost_work_s": 1.0, "checkpoint_age_s": 1.0}, {"lost_work_s": 1.0, "checkpoint_age_s": 9.0}, "a"),
        ({}, {}, "a"),
    ],
)
def test_the_cheapest_victim_is_asked_first(first, second, stopped):
    snap = hold(snapshot(waiting=(HIGH,)), low("a", 4, 4)[0], 4, **first)
    snap = hold(snap, low("b", 4, 4)[0], 4, **second)
    assert set(changes(decide_queues(snap))) == {stopped}


def test_of_equal_cost_the_lowest_class_is_asked_first():
    running = (low("a", 4, 4, priority=20), low("b", 4, 4, priority=10))
    assert set(changes(decide_queues(snapshot(running=running, waiting=(HIGH,))))) == {"b"}


def test_a_job_shrinks_for_a_higher_one_and_grows_back():
    elastic = low("a", range(1, 9), 8)[0]
    snap, _ = settle(hold(snapshot(waiting=(HIGH,)), elastic, 8))
    assert {lease.holder: lease.devices for lease in snap.leases} == {"a": 4, "high": 4}
    over = replace(snap, running=(snap.running[0],), leases=tuple(x for x in snap.leases if x.holder == "a"))
    assert changes(decide_queues(over)) == {"a": ("grows", 8)}


def test_victims_drain_before_their_devices_go_to_others():
    snap = snapshot(running=(low("a", range(1, 9), 8),), waiting=(HIGH,))
    draining = apply(snap, decide_queues(snap), drain=True)
    again = decide_queues(draining)
    assert (started(again), changes(again)) == ({}, {})
    assert why(again, "high").eta_s == 1060.0
    gone = replace(draining, leases=tuple(x for x in draining.leases if x.state is LeaseState.HELD))
    assert started(decide_queues(gone)) == {"high": 4}


def test_what_was_asked_back_for_a_job_is_not_taken_by_another():
    snap = snapshot(running=(low("a", range(1, 9), 8),), waiting=(HIGH,))
    after = apply(snap, decide_queues(snap))
    rival = job("rival", 4, priority=90, tenant="blue", submitted_s=-5.0)
    decisions = decide_queues(replace(after, waiting=(*after.waiting, rival)))
    assert started(decisions) == {"high": 4}
    assert waits(decisions)["rival"] != "WaitingForQuota"


def test_a_higher_class_that_came_since_overrules_a_claim():
    snap = snapshot(running=(low("a", range(1, 9), 8),), waiting=(HIGH,))
    after = apply(snap, decide_queues(snap))
    chief = job("chief", 4, priority=99, submitted_s=1000.5)
    assert started(decide_queues(replace(after, waiting=(*after.waiting, chief)))) == {"chief": 4}


def test_an_owner_gives_a_recall_the_grace_it_promised():
    snap, _ = SCENARIOS["an owner recalls what it brought"]
    assert decide_queues(snap).changes[0].drain_until_s == 1300.0
