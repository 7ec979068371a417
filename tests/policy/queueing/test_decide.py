"""Laws of every decision: the books stay whole, everybody is answered once, and order of input means nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.queueing.conservation import breaches
from orchestrator.policy.queueing.decide import decide_queues
from tests.policy.queueing.build import apply
from tests.policy.queueing.worlds import clusters, contended


@settings(max_examples=120, deadline=None)
@given(st.one_of(clusters(), contended()))
def test_nothing_is_given_out_twice(snap):
    assert breaches(snap, decide_queues(snap)) == []


@settings(max_examples=60, deadline=None)
@given(st.one_of(clusters(), contended()))
def test_the_books_stay_whole_while_devices_drain(snap):
    for _ in range(4):
        decisions = decide_queues(snap)
        assert breaches(snap, decisions) == []
        snap = apply(snap, decisions, drain=True)


@settings(max_examples=60, deadline=None)
@given(st.one_of(clusters(), contended()), st.randoms(use_true_random=False))
def test_order_of_input_means_nothing(snap, rng):
    def mixed(values):
        values = list(values)
        rng.shuffle(values)
        return tuple(values)

    pools = tuple(replace(pool, nodes=mixed(pool.nodes)) for pool in mixed(snap.pools))
    queues = tuple(replace(queue, quotas=mixed(queue.quotas)) for queue in mixed(snap.queues))
    other = replace(
        snap,
        pools=pools,
        queues=queues,
        tenants=mixed(snap.tenants),
        waiting=mixed(snap.waiting),
        running=mixed(snap.running),
        leases=mixed(snap.leases),
    )
    assert decide_queues(other) == decide_queues(snap)
