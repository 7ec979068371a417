"""EASY backfill: gaps are filled, and a promised start is kept whatever fills them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.values import Coupling
from tests.policy.queueing.build import gpu_pool, job, nodes, queue, snapshot, started, waits, why
from tests.policy.queueing.timeline import Timeline
from tests.policy.queueing.worlds import LEVELS, NEAR

PLACES = ("a", "r1"), ("a", "r2"), ("b", "r1")
LONG_RUNNING = job("r", 6, work_s=600.0)
HEAD = job("head", 8, submitted_s=1.0)


def gap(*waiting, running=LONG_RUNNING, **more):
    """Two of eight devices are free for 100 s; then the head has all eight."""
    return decide_queues(snapshot(running=((running, 6),), waiting=(HEAD, *waiting), **more))


def test_what_ends_in_time_fills_the_gap():
    assert started(gap(job("short", 2, submitted_s=2.0, work_s=199.0))) == {"short": 2}


def test_what_would_end_too_late_waits():
    decisions = gap(job("long", 2, submitted_s=2.0, work_s=202.0))
    assert waits(decisions)["long"] == "BackfillReservation"


def test_what_nobody_can_estimate_waits():
    assert waits(gap(job("unknown", 2, submitted_s=2.0)))["unknown"] == "BackfillReservation"


def test_what_the_head_does_not_need_may_stay_for_long():
    decisions = gap(job("long", 2, submitted_s=2.0), pools=(gpu_pool("pool", nodes(1, 10)),))
    assert started(decisions) == {"long": 2}


def test_an_elastic_job_may_end_in_time_by_starting_large():
    elastic = job("elastic", range(1, 5), submitted_s=2.0, work_s=150.0)
    assert started(gap(elastic)) == {"elastic": 2}


def test_the_head_is_told_when_it_starts():
    assert why(gap(), "head").eta_s == 1100.0


def test_a_job_that_nothing_will_ever_fit_is_no_head():
    never = job("never", 9, submitted_s=0.0)
    assert started(gap(never, job("short", 2, submitted_s=2.0, work_s=199.0))) == {"short": 2}


@st.composite
def lives(draw):
    """One queue, one tenant, one class: order is first come, first served, and nothing but backfill can break it."""
    pool = gpu_pool("pool", tuple(one for at in PLACES for one in nodes(draw(st.integers(1, 2)), 4, at, "-".join(at))))
    snap = snapshot(pools=(pool,), queues=(queue(nominal=draw(st.integers(8, 24))),), levels=LEVELS, rules=NEAR)
    jobs = []
    for at in range(draw(st.integers(3, 12))):
        size = draw(st.integers(1, 8))
        sizes = draw(st.sampled_from([(size,), (size,), tuple(range(size, size + 3))]))
        jobs.append(
            replace(
                job(f"j{at:02d}", 1, submitted_s=float(at), work_s=float(draw(st.integers(1, 40)) * 10)),
                sizes=sizes,
                coupling=draw(st.sampled_from(list(Coupling))),
            )
        )
    return Timeline(snap=replace(snap, waiting=tuple(jobs)))


@settings(max_examples=120, deadline=None)
@given(lives())
def test_no_promised_start_is_ever_delayed(life):
    names = {one.id for one in life.snap.waiting}
    for _ in range(60):
        life.step()
        if not life.snap.running and not life.snap.waiting:
            break
    for name in names & set(life.etas):
        assert life.started_s[name] <= life.etas[name] + 1e-6, f"{name} was promised {life.etas[name]}"
