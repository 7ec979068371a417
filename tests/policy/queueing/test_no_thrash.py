"""Preemption comes to rest: the potential falls with every claim carried out; nobody is chased in circles."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Evict
from orchestrator.policy.queueing.potential import potential
from orchestrator.policy.queueing.values import LeaseState
from tests.policy.queueing.build import apply, canonical
from tests.policy.queueing.worlds import CLASSES, clusters, contended

WORLDS = st.one_of(clusters(most_jobs=10, min_run=False, held_nodes=False), contended(most_jobs=10))


@settings(max_examples=120, deadline=None)
@given(WORLDS)
def test_repeated_decisions_come_to_rest(snap):
    seen = {canonical(snap)}
    for _ in range(60):
        after = apply(snap, decide_queues(snap))
        if canonical(after) == canonical(snap):
            return
        assert canonical(after) not in seen, "the same state again: devices go in circles"
        seen.add(canonical(after))
        snap = after
    raise AssertionError("no rest after 60 decisions")


@settings(max_examples=120, deadline=None)
@given(WORLDS)
def test_rest_comes_also_when_devices_take_time_to_drain(snap):
    stopped: dict[str, int] = {}
    for _ in range(40):
        decisions = decide_queues(snap)
        for change in decisions.changes:
            if isinstance(change, Evict):
                stopped[change.job] = stopped.get(change.job, 0) + 1
        snap = apply(snap, decisions, drain=True)
        snap = replace(snap, now_s=snap.now_s + 20.0, leases=_drained(snap))
        if not decisions.changes and not any(lease.state is LeaseState.DRAINING for lease in snap.leases):
            break
    else:
        raise AssertionError("still moving after 40 cycles")
    assert all(times <= len(CLASSES) + 2 for times in stopped.values()), "a job is stopped again and again"


def _drained(snap):
    return tuple(lease for lease in snap.leases if lease.state is LeaseState.HELD or lease.until_s > snap.now_s + 20.0)


@settings(max_examples=120, deadline=None)
@given(WORLDS)
def test_the_potential_falls_from_rest_to_rest(snap):
    before = potential(snap, CLASSES)
    for _ in range(60):
        decisions = decide_queues(snap)
        after = apply(snap, decisions)
        stopped = [change for change in decisions.changes if isinstance(change, Evict)]
        if any(change.for_job is None for change in stopped):
            # Endpoints want devices back: that is no claim, and all starts anew.
            before = None
        if not stopped:
            # Every claim before this decision has been carried out.
            now = potential(after, CLASSES)
            assert before is None or now <= before, "a claim has raised the potential"
            before = now
        if canonical(after) == canonical(snap):
            return
        # No two decisions share an instant (the ledger sees to it): who started later is told by when it started.
        snap = replace(after, now_s=after.now_s + 0.001)
