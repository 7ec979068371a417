"""Devices called back for endpoints: shrink before stop, least loss first, and no more than is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cycle import decide
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.conservation import breaches
from orchestrator.policy.queueing.decisions import ChangeCause, Evict, Resize
from orchestrator.policy.queueing.places import NodeState
from orchestrator.policy.queueing.values import LeaseState, Tempo
from orchestrator.policy.resize import ResizeRules, ResizeState, RunPlan
from tests.policy.queueing.build import apply, changes, gpu_pool, hold, job, nodes, snapshot, started
from tests.policy.queueing.worlds import clusters


def with_headroom(snap, devices):
    first, *rest = snap.pools
    return replace(snap, pools=(replace(first, headroom=devices), *rest))


@pytest.mark.parametrize(("headroom", "left"), [(0, 8), (2, 6), (3, 4), (4, 4), (6, 2)])
def test_a_job_shrinks_to_the_largest_useful_size_that_leaves_enough(headroom, left):
    one = replace(job("j"), sizes=(2, 4, 6, 8))
    snap = with_headroom(snapshot(8, running=[(one, 8)]), headroom)
    assert changes(decide(snap)) == ({} if left == 8 else {"j": ("recall", left)})


def test_below_its_minimum_a_job_is_stopped_and_waits_again():
    one = replace(job("j"), sizes=(4, 8))
    snap = with_headroom(snapshot(8, running=[(one, 8)]), 5)
    decisions = decide(snap)
    assert changes(decisions) == {"j": ("recall", 0)}
    assert decisions.changes[0].requeue


def test_who_loses_least_gives_first_and_shrinking_comes_before_stopping():
    snap = snapshot(12)
    snap = hold(snap, replace(job("dear"), sizes=(2, 4)), 4, lost_work_s=100.0)
    snap = hold(snap, replace(job("cheap"), sizes=(2, 4)), 4, lost_work_s=1.0)
    snap = hold(snap, job("fixed", 4), 4, lost_work_s=0.0)
    assert changes(decide(with_headroom(snap, 2))) == {"cheap": ("recall", 2)}
    assert changes(decide(with_headroom(snap, 4))) == {"cheap": ("recall", 2), "dear": ("recall", 2)}
    assert changes(decide(with_headroom(snap, 5)))["fixed"] == ("recall", 0)


def test_what_drains_already_is_not_asked_for_again():
    one = replace(job("j"), sizes=(2, 4, 6, 8))
    snap = with_headroom(snapshot(8, running=[(one, 8)]), 4)
    after = apply(snap, decide(snap), drain=True)
    assert [lease.devices for lease in after.leases if lease.state is LeaseState.DRAINING] == [4]
    assert decide(after).changes == ()


def test_nobody_grows_into_what_was_called_back():
    one = replace(job("j"), sizes=(2, 4, 6, 8))
    snap = with_headroom(snapshot(8, running=[(one, 8)]), 4)
    after = apply(snap, decide(snap))
    assert decide(after).changes == ()
    assert changes(decide(with_headroom(after, 0))) == {"j": ("grows", 8)}


def test_the_last_ranks_go_and_devices_of_held_nodes_stay():
    one = replace(job("j", devices_per_worker=2), sizes=(1, 2, 3, 4))
    pool = gpu_pool("pool", nodes(4, 2))
    pool = replace(pool, nodes=(replace(pool.nodes[0], state=NodeState.HELD), *pool.nodes[1:]))
    snap = snapshot(pools=(pool,))
    for node in pool.nodes[:1]:
        snap = hold(snap, one, 4, node=node.name)
    lease = replace(snap.leases[0], nodes=tuple((node.name, 2) for node in pool.nodes))
    snap = with_headroom(replace(snap, leases=(lease,)), 3)
    (resize,) = decide(snap).changes
    assert isinstance(resize, Resize)
    assert [(seats.node, seats.workers) for seats in resize.placement] == [("n0000", 1), ("n0001", 1)]


def test_a_pool_out_of_sight_is_left_alone():
    one = replace(job("j"), sizes=(2, 8))
    snap = with_headroom(snapshot(8, running=[(one, 8)]), 4)
    snap = replace(snap, pools=(replace(snap.pools[0], in_sight=False),))
    assert decide(snap).changes == ()


@settings(max_examples=150, deadline=None)
@given(clusters(held_nodes=True), st.integers(0, 12))
def test_after_one_recall_the_headroom_is_there_or_nobody_is_left_to_give(snap, headroom):
    snap = with_headroom(snap, headroom)
    decisions = decide(snap)
    assert breaches(snap, decisions) == []
    after = apply(snap, decisions)
    pool = after.pools[0]
    usable = {node.name: node.devices for node in pool.nodes if node.state is NodeState.OK}
    held = sum(
        devices for lease in after.leases if lease.pool == pool.name for name, devices in lease.nodes if name in usable
    )
    assert held == 0 or sum(usable.values()) - held >= headroom
    recalled = [one for one in decide(after).changes if one.cause is ChangeCause.RECALL]
    assert not recalled or any(one.for_job for one in recalled)


@pytest.mark.parametrize(("passing", "starts"), [(0, True), (2, True), (3, False), (9, False)])
def test_devices_that_a_roll_out_takes_for_a_moment_are_not_given_out(passing, starts):
    snap = snapshot(8, running=[(job("there", 2), 2)], waiting=(job("new", 4),))
    first, *rest = snap.pools
    decisions = decide(replace(snap, pools=(replace(first, passing=passing), *rest)))
    assert started(decisions) == ({"new": 4} if starts else {})
    assert not decisions.changes


def test_nobody_gives_way_for_devices_that_pass():
    snap = with_headroom(snapshot(8, running=[(replace(job("j"), sizes=(2, 4, 6)), 6)]), 1)
    first, *rest = snap.pools
    assert not decide(replace(snap, pools=(replace(first, passing=4), *rest))).changes


def with_emergency(snap, devices):
    first, *rest = snap.pools
    return replace(snap, pools=(replace(first, headroom=devices, urgent=devices), *rest))


def tempo(stop_s, slow_stop_s=None):
    rules = ResizeRules(dwell_s=0.0, settle_s=0.0, collect_s=10.0, margin=0.1)
    plan = RunPlan(batch=BatchPlan(8, 1), min_workers=2, max_workers=8, rules=rules)
    return Tempo(plan=plan, state=ResizeState(), outlook=(), stall_s=5.0, stop_s=stop_s, slow_stop_s=slow_stop_s)


@pytest.mark.parametrize(
    ("known", "within_s"),
    [(None, 30.0), (tempo(0.5), 5.0), (tempo(8.0), 16.0), (tempo(500.0), 60.0)],
    ids=["no stop was seen", "never quicker than five seconds", "twice its stop", "never longer than the grace"],
)
def test_an_emergency_has_the_shortest_safe_deadline_and_says_so(known, within_s):
    one = replace(job("j"), sizes=(2, 4, 6, 8))
    snap = hold(snapshot(8), one, 8, tempo=known)
    (shrunk,) = decide(with_emergency(snap, 2)).changes
    assert (shrunk.cause, shrunk.drain_until_s) == (ChangeCause.EMERGENCY, snap.now_s + within_s)
    (stopped,) = decide(with_emergency(snap, 7)).changes
    assert isinstance(stopped, Evict)
    assert stopped.requeue
    assert (stopped.cause, stopped.drain_until_s) == (ChangeCause.EMERGENCY, snap.now_s + within_s)


@pytest.mark.parametrize(
    ("known", "within_s"),
    [(None, 60.0), (tempo(0.5, 40.0), 60.0), (tempo(50.0, 200.0), 250.0)],
    ids=["no stop was seen", "its slowest stop is within it", "it is usually slower"],
)
def test_a_recall_in_good_order_has_the_whole_grace_and_what_the_jobs_stops_take(known, within_s):
    one = replace(job("j"), sizes=(2, 4, 6, 8))
    snap = with_headroom(hold(snapshot(8), one, 8, tempo=known), 2)
    (shrunk,) = decide(snap).changes
    assert (shrunk.cause, shrunk.drain_until_s) == (ChangeCause.RECALL, snap.now_s + within_s)
