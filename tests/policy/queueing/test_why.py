"""True explanations: every suggested edit, made on a copy, starts the job in the next decision."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given, settings

from orchestrator.policy.queueing import edits as change
from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Admit, Reject, WaitReason
from orchestrator.policy.queueing.parties import Purse, Queue, Quota, Tenant
from orchestrator.policy.queueing.places import NodeState, OpenHours, flat_pool
from orchestrator.policy.queueing.values import Coupling, LeaseState, Spending
from orchestrator.policy.queueing.why import edited, what_if, why
from orchestrator.policy.windows import Window
from tests.policy.queueing.build import RULES, gpu_pool, hold, job, nodes, queue, snapshot
from tests.policy.queueing.worlds import LEVELS, NEAR, clusters, contended

NIGHT = OpenHours(window=Window(name="night", opens=dt.time(22), closes=dt.time(6), timezone="UTC"))
NOON, LATE = 12 * 3600.0, 86_400.0 + 5.5 * 3600
METERED = (Tenant(name="red", purse=Purse(micro_usd=1_000_000)),)
STEPS = (Tenant(name="red", purse=Purse(iterations=200)),)
PAID = (flat_pool("pool", 8, micro_usd_per_device_hour=3_600_000),)
HELD_NODE = replace(nodes(1, 8)[0], state=NodeState.HELD)
RACKS = (gpu_pool("pool", (*nodes(1, 4, ("a", "r1"), "m"), *nodes(1, 4, ("b", "r1"), "n"))),)

# what is so: (snapshot with a job j that waits, its reason, edits that would start it)
SCENARIOS = {
    "paused": (
        snapshot(waiting=(job("j", active=False),)),
        "Deactivated",
        (change.ResumeJob("j"),),
    ),
    "queue on hold": (
        snapshot(queues=(queue(on_hold=True),), waiting=(job("j"),)),
        "OnHold",
        (change.ReleaseQueue("main"),),
    ),
    "no such queue": (
        snapshot(waiting=(job("j", queue="mian"),)),
        "Misconfigured",
        (change.MoveToQueue("j", "main"),),
    ),
    "no such window": (
        snapshot(waiting=(job("j", window="weekend"),)),
        "Misconfigured",
        (change.SetWindow("j", None),),
    ),
    "not the tenant's queue": (
        snapshot(queues=(queue(tenants=frozenset({"blue"})),), waiting=(job("j"),)),
        "Misconfigured",
        (change.AddTenant("red", "main"),),
    ),
    "no such device": (
        snapshot(waiting=(job("j", resource="TPU"),)),
        "NoMatchingPool",
        (),
    ),
    "a pool that the queue may not use": (
        snapshot(
            pools=(flat_pool("pool", 8), flat_pool("tpus", 4, resource="TPU")), waiting=(job("j", resource="TPU"),)
        ),
        "NoMatchingPool",
        (change.RaiseQuota("main", "tpus", 1),),
    ),
    "larger than the quota can be": (
        snapshot(queues=(queue(nominal=4),), waiting=(job("j", 6),)),
        "ExceedsMaxQuota",
        (change.RaiseQuota("main", "pool", 2),),
    ),
    "an elastic one larger than the quota can be": (
        snapshot(queues=(queue(nominal=4),), waiting=(job("j", range(6, 9)),)),
        "ExceedsMaxQuota",
        (change.SetMinWorkers("j", 4),),
    ),
    "quota in use": (
        snapshot(
            16,
            queues=(queue(nominal=4),),
            running=((job("r", 3, priority=90), 3),),
            waiting=(job("j", 2, priority=95),),
        ),
        "WaitingForPreempted",
        (change.GiveBack((("r", "pool", "pool", 3),)),),
    ),
    "quota in use by a higher class": (
        snapshot(16, queues=(queue(nominal=4),), running=((job("r", 3, priority=90), 3),), waiting=(job("j", 2),)),
        "WaitingForQuota",
        (change.RaiseQuota("main", "pool", 1),),
    ),
    "window closed": (
        snapshot(now_s=NOON, windows=(NIGHT,), waiting=(job("j", window="night"),)),
        "OutsideWindow",
        (change.SetWindow("j", None),),
    ),
    "window closes soon": (
        snapshot(now_s=LATE, windows=(NIGHT,), waiting=(job("j", window="night", min_slice_s=3600),)),
        "WindowTooShort",
        (change.SetWindow("j", None),),
    ),
    "own budget below its shortest stay": (
        snapshot(pools=PAID, waiting=(job("j", min_slice_s=3600, spending=Spending(micro_usd=100)),)),
        "BudgetExhausted",
        (change.LiftBudget("j"),),
    ),
    "purse empty": (
        snapshot(pools=PAID, tenants=METERED, waiting=(job("j", work_s=3600.0),)),
        "BudgetExhausted",
        (change.GrantMoney("red", 3_600_000),),
    ),
    "granted steps too few": (
        snapshot(pools=PAID, tenants=STEPS, waiting=(job("j", work_s=3600.0, steps_left=500),)),
        "BudgetExhausted",
        (change.GrantSteps("red", 300),),
    ),
    "data elsewhere": (snapshot(waiting=(job("j", data_staged=False),)), "DataNotStaged", (change.StageData("j"),)),
    "after another": (
        snapshot(waiting=(job("j", unmet=("pack",)),)),
        "DependencyPending",
        (change.MeetDependencies("j"),),
    ),
    "endpoints' devices": (
        snapshot(pools=(flat_pool("pool", 8, headroom=6),), waiting=(job("j", 4),)),
        "ServeHeadroom",
        (change.CutHeadroom("pool", 2),),
    ),
    "node held back": (
        snapshot(pools=(gpu_pool("pool", (HELD_NODE,)),), waiting=(job("j", 4),)),
        "NodeHealthHold",
        (change.ReleaseNodes("pool"),),
    ),
    "too far apart": (
        snapshot(pools=RACKS, levels=LEVELS, rules=NEAR, waiting=(job("j", 6),)),
        "TopologyPlacementFailed",
        (change.SetCoupling("j", Coupling.MODULAR),),
    ),
    "too few devices": (
        snapshot(running=((job("r", 6, priority=90), 6),), waiting=(job("j", 4),)),
        "GangIncomplete",
        (change.AddDevices("pool", 2),),
    ),
    "pool out of sight": (
        snapshot(pools=(replace(flat_pool("pool", 8), in_sight=False),), waiting=(job("j"),)),
        "PendingEvaluation",
        (change.SeePool("pool"),),
    ),
    "one start a cycle": (
        snapshot(rules=replace(RULES, max_starts=1), waiting=(job("first", submitted_s=-1.0), job("j"))),
        "PendingEvaluation",
        (change.RaiseStarts(2),),
    ),
    "would delay the head": (
        snapshot(
            running=((job("r", 4, work_s=400.0, priority=90), 4),),
            waiting=(job("head", 8, submitted_s=-1.0), job("j", 2, work_s=5000.0)),
        ),
        "BackfillReservation",
        (change.SetPriority("j", 91),),
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_suggested_edit_starts_the_job(name):
    snap, reason, expected = SCENARIOS[name]
    answer = why(snap, "j")
    assert answer.why is not None
    assert answer.why.reason == WaitReason(reason)
    assert answer.unblock == expected
    if expected:
        assert isinstance(decide_queues(edited(snap, expected)).verdict("j"), Admit)


def test_reserved_money_is_told_from_spent_money():
    other = job("r", 1, work_s=3600.0)
    snap = hold(snapshot(pools=PAID, tenants=METERED, waiting=(job("j", work_s=900.0),)), other, 1)
    snap = replace(snap, running=(replace(snap.running[0], reserved=Purse(micro_usd=500_000)),))
    assert why(snap, "j").why.reason == WaitReason.BUDGET_RESERVED
    assert isinstance(what_if(snap, why(snap, "j").unblock).verdict("j"), Admit)


def test_granted_steps_that_others_have_set_aside_are_told_from_those_that_are_not_there():
    other = job("r", 1, steps_left=120)
    snap = hold(snapshot(pools=PAID, tenants=STEPS, waiting=(job("j", work_s=900.0, steps_left=100),)), other, 1)
    snap = replace(snap, running=(replace(snap.running[0], reserved=Purse(iterations=120)),))
    assert why(snap, "j").why.reason == WaitReason.BUDGET_RESERVED
    assert why(snap, "j").unblock == (change.GrantSteps("red", 20),)


def test_every_reason_of_the_closed_set_can_be_given():
    given_reasons = {WaitReason(reason) for _, reason, _ in SCENARIOS.values()} | {WaitReason.BUDGET_RESERVED}
    assert given_reasons == set(WaitReason)


def test_what_time_does_not_cure_is_rejected():
    never = {name for name, (snap, _, _) in SCENARIOS.items() if isinstance(why(snap, "j").verdict, Reject)}
    assert never == {
        "no such queue",
        "no such window",
        "not the tenant's queue",
        "no such device",
        "a pool that the queue may not use",
        "larger than the quota can be",
        "an elastic one larger than the quota can be",
    }


def test_a_window_tells_when_it_opens():
    snap, _, _ = SCENARIOS["window closed"]
    assert why(snap, "j").why.eta_s == 22 * 3600


def test_draining_devices_tell_when_they_are_back():
    snap = snapshot(running=((job("r", 8), 8),), waiting=(job("j", 8),))
    drained = replace(snap.leases[0], state=LeaseState.DRAINING, until_s=1042.0)
    answer = why(replace(snap, running=(), leases=(drained,)), "j")
    assert (answer.why.reason, answer.why.eta_s) == (WaitReason.WAITING_FOR_PREEMPTED, 1042.0)


def test_asking_changes_nothing():
    snap, _, _ = SCENARIOS["too few devices"]
    before = decide_queues(snap)
    what_if(snap, [change.AddDevices("pool", 100)])
    assert decide_queues(snap) == before


def test_devices_called_back_for_endpoints_are_named_where_a_job_waits_for_them():
    snap = snapshot(
        pools=(flat_pool("pool", 4, headroom=2),),
        running=((job("r", 2, devices_per_worker=2), 2),),
        waiting=(job("j"),),
    )
    answer = why(snap, "j")
    assert (answer.why.reason, answer.unblock) == (
        WaitReason.WAITING_FOR_PREEMPTED,
        (change.GiveBack((("r", "pool", "pool", 4),)),),
    )
    assert isinstance(what_if(snap, answer.unblock).verdict("j"), Admit)


@pytest.mark.parametrize(
    ("quotas", "per_worker", "reason"),
    [((1, 10), 1, "GangIncomplete"), ((2, 3), 1, "GangIncomplete"), ((1, 9), 2, "ExceedsMaxQuota")],
)
def test_a_job_over_several_pools_is_told_of_the_pool_that_keeps_it(quotas, per_worker, reason):
    pools = tuple(gpu_pool(name, nodes(1, 1, ("a", "r1"), name)) for name in ("p", "q"))
    both = Queue(
        name="main", quotas=tuple(Quota(pool=name, nominal=most) for name, most in zip("pq", quotas, strict=True))
    )
    wide = job("j", 5, coupling=Coupling.MODULAR, devices_per_worker=per_worker)
    snap = snapshot(pools=pools, queues=(both,), levels=LEVELS, rules=NEAR, waiting=(wide,))
    answer = why(snap, "j")
    assert answer.why.reason == WaitReason(reason)
    assert isinstance(what_if(snap, answer.unblock).verdict("j"), Admit)


@settings(max_examples=25, deadline=None)
@given(clusters())
def test_whatever_keeps_a_job_something_true_is_said(snap):
    _assert_true(snap)


@settings(max_examples=25, deadline=None)
@given(contended())
def test_also_where_everybody_wants_what_somebody_else_has(snap):
    _assert_true(snap)


def _assert_true(snap):
    decisions = decide_queues(snap)
    waiting = sorted(job for group in decisions.waits for job in group.jobs)[:2]
    for name in waiting:
        answer = why(snap, name)
        assert answer.unblock, "nothing would start it"
        assert isinstance(what_if(snap, answer.unblock).verdict(name), Admit)
