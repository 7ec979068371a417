"""Fair shares: decay is an exact average, and nothing is gained by how a tenant cuts, names or describes its jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.parties import Contribution, Recent, Tenant
from orchestrator.policy.queueing.shares import recent_after
from tests.policy.queueing.build import changes, held_by, job, queue, settle, snapshot, started, waits
from tests.policy.queueing.timeline import Timeline

DEVICES = st.floats(0, 1000)
SECONDS = st.floats(0, 1e6)


@given(recent=DEVICES, held=DEVICES, first_s=SECONDS, second_s=SECONDS)
def test_decay_does_not_depend_on_how_time_is_cut(recent, held, first_s, second_s):
    once = recent_after(recent, held, first_s + second_s, 3600.0)
    twice = recent_after(recent_after(recent, held, first_s, 3600.0), held, second_s, 3600.0)
    assert once == pytest.approx(twice, abs=1e-6)


@given(recent=DEVICES, held=DEVICES, elapsed_s=SECONDS)
def test_decay_lies_between_what_was_and_what_is(recent, held, elapsed_s):
    low, high = sorted((recent, held))
    assert low - 1e-6 <= recent_after(recent, held, elapsed_s, 3600.0) <= high + 1e-6


def test_half_is_forgotten_in_a_half_life():
    assert recent_after(8.0, 0.0, 3600.0, 3600.0) == pytest.approx(4.0)


@pytest.mark.parametrize(("elapsed_s", "half_life_s"), [(-1.0, 1.0), (1.0, 0.0)])
def test_time_runs_forwards(elapsed_s, half_life_s):
    with pytest.raises(ValueError, match="half_life_s"):
        recent_after(1.0, 1.0, elapsed_s, half_life_s)


def shared_out(*jobs, devices=12, tenants=()):
    """Devices by tenant once everything has come to rest, all jobs submitted at once."""
    snap, _ = settle(snapshot(devices, waiting=jobs, tenants=tenants))
    return {name: held_by(snap, name) for name in sorted({one.tenant for one in jobs})}


def test_tenants_share_equally():
    assert shared_out(job("a", range(1, 13)), job("b", range(1, 13), tenant="blue")) == {"blue": 6, "red": 6}


def test_tenants_share_by_weight():
    tenants = (Tenant(name="blue", weight=2.0), Tenant(name="red"))
    jobs = (job("a", range(1, 13)), job("b", range(1, 13), tenant="blue"))
    assert shared_out(*jobs, tenants=tenants) == {"blue": 8, "red": 4}


def test_what_a_tenant_brought_is_not_counted_against_it():
    brought = (Contribution(pool="pool", devices=6, recall_grace_s=60.0),)
    tenants = (Tenant(name="blue", contributions=brought), Tenant(name="red"))
    jobs = (job("a", range(1, 13)), job("b", range(1, 13), tenant="blue"))
    assert shared_out(*jobs, tenants=tenants) == {"blue": 9, "red": 3}


def test_what_was_used_lately_counts():
    tenants = (Tenant(name="blue", recent=(Recent(resource="GPU", devices=6.0),)), Tenant(name="red"))
    jobs = (job("a", range(1, 13)), job("b", range(1, 13), tenant="blue"))
    assert shared_out(*jobs, tenants=tenants) == {"blue": 3, "red": 9}


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.integers(1, 4), min_size=2, max_size=8), devices=st.integers(4, 20))
def test_nothing_is_gained_by_splitting_a_job(parts, devices):
    rival = job("b", range(1, 21), tenant="blue")
    whole = shared_out(job("a", range(1, sum(parts) + 1)), rival, devices=devices)
    pieces = [job(f"a{at}", range(1, size + 1)) for at, size in enumerate(parts)]
    assert shared_out(*pieces, rival, devices=devices)["red"] <= whole["red"]


@settings(max_examples=40, deadline=None)
@given(names=st.permutations(["a", "m", "z"]), devices=st.integers(3, 14))
def test_nothing_is_gained_by_renaming_a_job(names, devices):
    first, second, third = names
    jobs = (
        job(first, range(1, 9)),
        job(second, range(1, 9), tenant="blue"),
        job(third, range(1, 9), tenant="blue"),
    )
    plain = shared_out(job("a", range(1, 9)), *(job(n, range(1, 9), tenant="blue") for n in "mz"), devices=devices)
    assert shared_out(*jobs, devices=devices) == plain


def test_a_tenant_above_its_share_gives_surplus_to_one_below():
    snap = snapshot(8, running=((job("a", range(1, 9)), 8),), waiting=(job("b", range(1, 9), tenant="blue"),))
    assert changes(decide_queues(snap)) == {"a": ("fair_share", 4)}
    assert held_by(settle(snap)[0], "blue") == 4


def test_nobody_is_stopped_for_fairness():
    snap = snapshot(8, running=((job("a", 8), 8),), waiting=(job("b", 2, tenant="blue"),))
    assert changes(decide_queues(snap)) == {}
    assert waits(decide_queues(snap)) == {"b": "GangIncomplete"}


def test_a_deadline_keeps_its_devices_against_fairness():
    hurried = job("a", range(1, 9), work_s=6000.0, deadline_s=2000.0)
    snap = snapshot(8, running=((hurried, 8),), waiting=(job("b", range(1, 9), tenant="blue"),))
    assert changes(decide_queues(snap)) == {"a": ("fair_share", 6)}


def test_an_urgent_job_goes_before_older_ones_of_its_tenant():
    urgent = job("late", 8, submitted_s=9.0, work_s=800.0, deadline_s=1300.0)
    assert started(decide_queues(snapshot(8, waiting=(job("early", 8), urgent)))) == {"late": 8}


def long_run(red_sizes, *, rounds=220):
    """Device-seconds of a tenant that always wants more, beside an honest one with the same work to do."""
    arrivals = [
        job(f"{tenant}{at:03d}", 1, tenant=tenant, submitted_s=1000.0 + at, work_s=400.0)
        for at in range(80)
        for tenant in ("blue", "red")
    ]
    jobs = tuple(replace(one, sizes=red_sizes if one.tenant == "red" else tuple(range(1, 9))) for one in arrivals)
    tenants = (Tenant(name="blue"), Tenant(name="red"))
    life = Timeline(snap=snapshot(8, queues=(queue(),), tenants=tenants, waiting=jobs))
    for _ in range(rounds):
        if not {one.tenant for one in life.snap.waiting} >= {"blue", "red"}:
            break
        life.step()
    return life.device_s["red"] / (life.device_s["red"] + life.device_s["blue"])


def test_nothing_is_gained_by_misstating_the_minimum():
    honest = long_run(tuple(range(1, 9)))
    assert honest == pytest.approx(0.5, abs=0.02)
    for claimed in ((8,), (6, 7, 8), (4, 8)):
        assert long_run(claimed) <= honest + 0.02
