"""A roll kept over decisions is the one made anew, and so are the decisions, whoever comes, goes or changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.queueing import roll as roll_module
from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.roll import Roll
from tests.policy.queueing.build import apply, job, snapshot
from tests.policy.queueing.worlds import CLASSES, clusters, contended, jobs, sizes


@st.composite
def changed(draw, one):
    """A job as its owner has changed it, or left it."""
    return replace(
        one,
        priority=draw(st.sampled_from([one.priority, one.priority, *CLASSES])),
        sizes=draw(st.one_of(st.just(one.sizes), sizes)),
        active=draw(st.sampled_from([True, True, True, False])),
        deadline_s=draw(st.sampled_from([None, None, 1200.0, 9000.0])),
        unmet=draw(st.sampled_from([(), (), (), ("pack",)])),
    )


@st.composite
def later(draw, snap, number):
    """What may have become of a snapshot: jobs come, go and change, queues are held, in any order."""
    names = [queue.name for queue in snap.queues]
    tenants = [tenant.name for tenant in snap.tenants]
    kept = [one for one in snap.waiting if draw(st.integers(0, 5))]
    waiting = [draw(changed(one)) if draw(st.integers(0, 3)) == 0 else one for one in kept]
    waiting += [draw(jobs(f"k{number}x{at}", names, tenants)) for at in range(draw(st.integers(0, 3)))]
    queues = tuple(replace(one, on_hold=draw(st.integers(0, 6)) == 0) for one in snap.queues)
    return replace(snap, now_s=snap.now_s + 30.0, waiting=tuple(draw(st.permutations(waiting))), queues=queues)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.one_of(clusters(most_jobs=12), contended(most_jobs=12)))
def test_with_what_is_kept_decisions_are_those_without(data, snap):
    roll = Roll()
    for number in range(5):
        decisions = decide_queues(snap, roll)
        assert decisions == decide_queues(snap)
        assert said(roll) == said(Roll(), snap)
        snap = data.draw(later(apply(snap, decisions, drain=True), number))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.one_of(clusters(most_jobs=12), contended(most_jobs=12)))
def test_a_roll_of_one_cluster_serves_any_other(data, snap):
    roll = Roll()
    for number in range(3):
        other = data.draw(st.one_of(clusters(), contended()))
        for one in (snap, other, data.draw(later(snap, number))):
            assert decide_queues(one, roll) == decide_queues(one)


def said(roll: Roll, snap=None):
    """What a roll says of the jobs that it was told of last; bits are its own affair."""
    if snap is not None:
        roll.take(snap.waiting)
    shapes = {roll.bit(one): one.shape for one in roll.jobs.values()}
    rows = {
        key: [(one.id, shapes[bit]) for one, bit in zip(row.jobs, row.bits, strict=True)]
        for key, row in roll.rows.items()
    }
    masks = {key: {shape for bit, shape in shapes.items() if bit & row.mask} for key, row in roll.rows.items()}
    groups = {(queue, shapes[bit]): ids for (queue, bit), ids in roll.groups.items()}
    return rows, masks, groups, roll.special, roll.jobs


def test_a_roll_that_failed_half_way_begins_anew(monkeypatch):
    first = tuple(job(f"j{at}", submitted_s=float(at)) for at in range(8))
    roll = Roll()
    roll.take(first)
    with monkeypatch.context() as broken:
        broken.setattr(roll_module, "insort", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            roll.take((*first[1:], job("new")))
    snap = snapshot(4, waiting=first[2:])
    assert decide_queues(snap, roll) == decide_queues(snap)
    assert said(roll) == said(Roll(), snap)


def test_shapes_that_nobody_asks_for_any_more_are_forgotten():
    roll = Roll()
    stay = tuple(job(f"s{at}") for at in range(4))
    for size in range(1, 400):
        roll.take((*stay, job("j", size)))
    roll.take(stay)
    assert max(roll.bit(one) for one in stay).bit_length() < 100
