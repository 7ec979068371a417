"""What nobody decides: nodes that vanish or leave, windows that close; and growth that must pay."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.lending.session import Ending
from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Admit, WaitReason
from orchestrator.policy.queueing.places import Node, NodeState, OpenHours, flat_pool
from orchestrator.policy.queueing.values import Tempo
from orchestrator.policy.resize import Outlook, ResizeRules, ResizeState, RunPlan
from orchestrator.policy.windows import Window
from tests.policy.queueing.build import (
    apply,
    changes,
    gpu_pool,
    hold,
    job,
    lease_of,
    nodes,
    queue,
    snapshot,
    started,
    verdicts,
)

TWO = gpu_pool("pool", nodes(2, 4))
ELASTIC = job("j", range(2, 9))
NIGHT = OpenHours(window=Window(name="night", opens=dt.time(22), closes=dt.time(6), timezone="UTC"), grace_s=120.0)
SIX = 86_400.0 + 6 * 3600
ENDING = Ending(leave_s=25.0, finish_s=300.0)


def spread(one, pool=TWO, **more):
    """The job on four devices of each node."""
    snap = hold(snapshot(pools=(pool,), **more), one, 8)
    lease = lease_of(one, "pool", (("n0000", 4), ("n0001", 4)), 0.0)
    return replace(snap, leases=(lease,))


def only(at, **changes_):
    left = [replace(one, **changes_) if index == at else one for index, one in enumerate(TWO.nodes)]
    return replace(TWO, nodes=tuple(left))


def test_a_vanished_node_shrinks_the_job():
    gone = replace(TWO, nodes=TWO.nodes[:1])
    assert changes(decide_queues(spread(ELASTIC, gone))) == {"j": ("devices_lost", 4)}


def test_a_vanished_node_stops_a_job_below_its_minimum():
    gone = replace(TWO, nodes=TWO.nodes[:1])
    decisions = decide_queues(spread(job("j", 8), gone))
    assert changes(decisions) == {"j": ("devices_lost", 0)}
    assert decisions.changes[0].requeue


def test_free_devices_replace_lost_ones_at_once():
    spare = replace(TWO, nodes=(TWO.nodes[0], Node(name="spare", devices=4)))
    assert changes(decide_queues(spread(job("j", 8), spare))) == {"j": ("devices_lost", 8)}


def test_a_pool_that_is_only_a_number_shrinks_who_has_least_to_lose():
    snap = hold(snapshot(6, running=((job("a", range(1, 5)), 4),)), job("b", range(1, 5), priority=10), 4)
    assert changes(decide_queues(snap)) == {"b": ("devices_lost", 2)}


def test_a_node_that_leaves_is_left_in_time():
    leaving = only(1, state=NodeState.LEAVING, leaves_at_s=1020.0)
    decisions = decide_queues(spread(ELASTIC, leaving))
    assert changes(decisions) == {"j": ("node_leaves", 4)}
    assert decisions.changes[0].drain_until_s == 1020.0


def test_a_held_node_keeps_what_runs_and_takes_nothing_new():
    held = only(1, state=NodeState.HELD)
    decisions = decide_queues(replace(spread(job("j", 8), held), waiting=(job("new", 1),)))
    assert (changes(decisions), started(decisions)) == ({}, {})


@pytest.mark.parametrize(("late_s", "until_s"), [(0.0, SIX + 120), (30.0, SIX + 120), (500.0, SIX + 500)])
def test_no_device_is_held_past_the_grace_of_a_window(late_s, until_s):
    night = job("j", 4, window="night")
    decisions = decide_queues(hold(snapshot(now_s=SIX + late_s, windows=(NIGHT,)), night, 4))
    assert changes(decisions) == {"j": ("window_closed", 0)}
    assert decisions.changes[0].drain_until_s == until_s


def test_a_night_job_knows_when_it_must_be_gone():
    snap = snapshot(now_s=SIX - 3600, windows=(NIGHT,), waiting=(job("j", 4, window="night"),))
    admitted = verdicts(decide_queues(snap))["j"]
    assert isinstance(admitted, Admit)
    assert admitted.until_s == SIX
    assert decide_queues(snap).wake_at_s == SIX


def test_a_window_opens_only_its_pools():
    pools = (flat_pool("pool", 2), flat_pool("other", 8))
    hours = replace(NIGHT, pools=frozenset({"pool"}))
    snap = snapshot(now_s=SIX - 3600, pools=pools, windows=(hours,), waiting=(job("j", 4, window="night"),))
    assert started(decide_queues(snap)) == {}


def growing(stall_s, lasts_s=3600.0):
    rules = ResizeRules(dwell_s=0.0, settle_s=0.0, collect_s=0.0, margin=0.1)
    tempo = Tempo(
        plan=RunPlan(batch=BatchPlan(840, 1), min_workers=1, max_workers=8, rules=rules),
        state=ResizeState(offered_workers=8, offered_since_s=0.0),
        outlook=(Outlook(workers=8, expected_s=lasts_s),),
        stall_s=stall_s,
        stop_s=1.0,
    )
    return hold(snapshot(), job("j", range(1, 9)), 4, tempo=tempo)


def test_a_job_grows_when_that_repays_its_stall():
    decisions = decide_queues(growing(stall_s=10.0))
    assert changes(decisions) == {"j": ("grows", 8)}
    assert dict(decisions.resize_states)["j"].resized_s == 1000.0


def test_a_job_of_a_queue_on_hold_goes_on_with_what_it_has():
    snap = replace(growing(stall_s=10.0), queues=(queue(on_hold=True),))
    assert changes(decide_queues(snap)) == {}


def test_growth_that_does_not_pay_leaves_the_devices_to_others():
    snap = replace(growing(stall_s=600.0, lasts_s=60.0), waiting=(job("other", 2, submitted_s=5.0),))
    decisions = decide_queues(snap)
    assert (changes(decisions), started(decisions)) == ({}, {"other": 2})


def test_an_offer_that_must_settle_is_remembered_from_one_decision_to_the_next():
    """Refused for now, it would else be new in every decision, and nobody would ever grow."""
    snap = growing(stall_s=10.0)
    (running,) = snap.running
    rules = replace(running.tempo.plan.rules, settle_s=2.0)
    tempo = replace(running.tempo, plan=replace(running.tempo.plan, rules=rules), state=ResizeState(offered_workers=4))
    snap = replace(snap, running=(replace(running, tempo=tempo),))
    first = decide_queues(snap)
    assert changes(first) == {}
    second = replace(apply(snap, first), now_s=snap.now_s + 1.0)
    assert changes(decide_queues(second)) == {}
    third = replace(apply(second, decide_queues(second)), now_s=snap.now_s + 2.0)
    assert changes(decide_queues(third)) == {"j": ("grows", 8)}


def night_of(min_slice_s=1800.0, started_s=SIX - 7 * 3600.0, ending=ENDING):
    rules = ResizeRules(dwell_s=0.0, settle_s=0.0, collect_s=0.0, margin=0.0)
    plan = RunPlan(batch=BatchPlan(4, 1), min_workers=4, max_workers=4, rules=rules)
    tempo = Tempo(plan=plan, state=ResizeState(), outlook=(), stall_s=5.0, stop_s=2.0, ending=ending)
    one = replace(job("j", 4, window="night"), min_slice_s=min_slice_s)
    return lambda at_s: decide_queues(
        hold(snapshot(now_s=at_s, windows=(NIGHT,)), one, 4, started_s=started_s, tempo=tempo)
    )


def test_a_night_ends_early_enough_for_what_must_follow_and_by_the_close():
    ends = night_of()
    before = ends(SIX - 301.0)
    assert (changes(before), before.wake_at_s) == ({}, SIX - 300.0)
    decisions = ends(SIX - 300.0)
    assert changes(decisions) == {"j": ("window_closed", 0)}
    assert decisions.changes[0].drain_until_s == SIX


@pytest.mark.parametrize("min_slice_s", [0.0, 60.0, 1800.0])
def test_a_night_that_began_late_trains_longer_and_is_evaluated_another_time(min_slice_s):
    ends = night_of(min_slice_s, started_s=SIX - 300.0 - (min_slice_s or 275.0) + 1.0)
    assert changes(ends(SIX - 26.0)) == {}
    assert changes(ends(SIX - 25.0)) == {"j": ("window_closed", 0)}


def test_a_night_whose_end_has_become_longer_than_what_is_left_still_leaves_in_time():
    ends = night_of(started_s=SIX - 1000.0)
    assert changes(ends(SIX - 26.0)) == {}
    assert changes(ends(SIX - 25.0)) == {"j": ("window_closed", 0)}


@pytest.mark.parametrize("min_slice_s", [0.0, 60.0, 1800.0])
def test_no_night_begins_without_room_for_its_slice_and_the_way_out(min_slice_s):
    least_s = 25.0 + (min_slice_s or 275.0)
    one = replace(job("j", 4, window="night"), min_slice_s=min_slice_s, ending=ENDING)
    begins = lambda left_s: decide_queues(snapshot(now_s=SIX - left_s, windows=(NIGHT,), waiting=(one,)))  # noqa: E731
    assert started(begins(least_s)) == {"j": 4}
    assert "evaluation waits for another night" in begins(least_s).starts[0].detail
    assert "then what ends a night" in begins(least_s + 275.0).starts[0].detail
    (waits,) = begins(least_s - 1.0).waits
    assert (waits.why.reason, waits.why.eta_s) == (WaitReason.WINDOW_TOO_SHORT, SIX + 16 * 3600.0)
