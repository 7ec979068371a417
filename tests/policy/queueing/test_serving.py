"""Endpoints that hold leases: they come down to what they lend, and have it back before anybody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.cycle import decide
from orchestrator.policy.queueing.conservation import breaches
from orchestrator.policy.queueing.values import LeaseState
from tests.policy.queueing.build import apply, changes, gpu_pool, job, nodes, queue, snapshot, started


def endpoint(most: int, least: int = 1, **more):
    return replace(job("e", range(least, most + 1), priority=1000, **more), serves=True)


def owing(snap, devices, *, headroom=0):
    first, *rest = snap.pools
    return replace(snap, pools=(replace(first, owed=(("e", devices),), headroom=headroom), *rest))


def held(snap, holder):
    return sum(one.devices for one in snap.leases if one.holder == holder and one.state is LeaseState.HELD)


def test_what_an_endpoint_lends_drains_and_then_trains():
    trains = replace(job("j"), sizes=(2, 4, 6))
    snap = owing(snapshot(8, running=[(endpoint(6), 6), (trains, 2)]), 3)
    decisions = decide(snap)
    assert changes(decisions) == {"e": ("lent", 3)}
    assert breaches(snap, decisions) == []
    after = apply(snap, decisions, drain=True)
    assert changes(decide(after)) == {}  # its replicas still answer what they have
    gone = replace(after, leases=tuple(one for one in after.leases if one.state is LeaseState.HELD))
    assert changes(decide(gone)) == {"j": ("grows", 4)}


def test_called_back_devices_are_the_endpoints_as_soon_as_training_has_let_go():
    trains = replace(job("j"), sizes=(1, 2, 3, 4, 5))
    snap = owing(snapshot(8, running=[(endpoint(6), 3), (trains, 5)]), 5, headroom=2)
    decisions = decide(snap)
    assert changes(decisions) == {"j": ("recall", 3)}
    after = apply(snap, decisions, drain=True)
    assert changes(decide(after)) == {}
    gone = replace(after, leases=tuple(one for one in after.leases if one.state is LeaseState.HELD))
    back = decide(gone)
    assert changes(back) == {"e": ("returned", 5)}
    assert held(apply(gone, back), "e") == 5


def test_part_of_what_is_owed_is_taken_at_once_and_nobody_starts_on_the_rest():
    snap = owing(snapshot(8, running=[(endpoint(6), 3), (job("fixed", 4), 4)], waiting=(job("w", 1),)), 6, headroom=3)
    decisions = decide(snap)
    assert changes(decisions) == {"e": ("returned", 4), "fixed": ("recall", 0)}
    assert started(decisions) == {}


@pytest.mark.parametrize("owed", [0, 2])
def test_an_endpoint_keeps_its_minimum_whatever_it_is_said_to_be_owed(owed):
    snap = owing(snapshot(8, running=[(endpoint(6, least=2), 4)]), owed)
    assert changes(decide(snap)) == {"e": ("lent", 2)}


@pytest.mark.parametrize("on_hold", [False, True])
def test_an_endpoint_to_which_lending_says_nothing_grows_also_in_a_queue_on_hold(on_hold):
    snap = snapshot(8, queues=(queue(on_hold=on_hold),), running=[(endpoint(6), 3)])
    assert changes(decide(snap)) == {"e": ("grows", 6)}


def test_what_is_owed_less_than_the_most_is_not_grown_beyond():
    snap = owing(snapshot(8, running=[(endpoint(6), 3)]), 3)
    assert changes(decide(snap)) == {}


def test_nobody_preempts_an_endpoint():
    urgent = job("urgent", 4, priority=1001)
    snap = snapshot(8, running=[(endpoint(6), 6)], waiting=(urgent,))
    assert changes(decide(snap)) == {}
    assert changes(decide(replace(snap, pools=(replace(snap.pools[0], headroom=4),)))) == {}


def test_an_endpoint_stays_with_what_a_lost_node_leaves_of_it():
    on_two = snapshot(pools=(gpu_pool("pool", nodes(1, 2)),))
    two = endpoint(4, least=4)
    lease = [("n0000", 2), ("n0001", 2)]
    snap = snapshot(8, running=[(two, 4)])
    snap = replace(snap, pools=on_two.pools, leases=(replace(snap.leases[0], nodes=tuple(lease)),))
    assert changes(decide(snap)) == {"e": ("devices_lost", 2)}
