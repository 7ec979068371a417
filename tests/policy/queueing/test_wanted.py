"""How many nodes more are needed, and which nobody needs."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.cycle import decide
from orchestrator.policy.queueing.values import LeaseState, Snapshot
from orchestrator.policy.queueing.wanted import Need, Room, grown, needs
from tests.policy.queueing.build import gpu_pool, hold, job, lease_of, nodes, queue, snapshot


def world(count: int = 1, *, waiting=(), **more) -> Snapshot:
    return snapshot(pools=(gpu_pool("pool", nodes(count, 4)),), waiting=tuple(waiting), **more)


def need(snap: Snapshot, room: int = 10, devices: int = 4) -> Need:
    rooms = {"pool": Room(nodes=room, devices=devices)}
    return needs(snap, decide(snap), decide(grown(snap, rooms)), rooms)["pool"]


def test_a_job_that_fits_on_what_is_there_needs_nothing() -> None:
    assert need(world(2, waiting=[job("a", 6)])) == Need()


def test_a_gang_needs_what_it_lacks_in_whole_nodes() -> None:
    assert need(world(1, waiting=[job("a", 10)])).more == 2
    assert need(world(0, waiting=[job("a", 10)])).more == 3


def test_a_gang_above_all_that_could_come_asks_for_nothing() -> None:
    assert need(world(1, waiting=[job("a", 10)]), room=1).more == 0


def test_several_jobs_need_their_sum_and_an_elastic_one_its_largest_size() -> None:
    assert need(world(1, waiting=[job("a", 4), job("b", 4), job("c", range(2, 9))])).more == 3


def test_quota_bounds_what_is_asked_for() -> None:
    snap = world(1, waiting=[job("a", 4), job("b", 4), job("c", 4)], queues=(queue(nominal=8),))
    assert need(snap).more == 1


def test_a_paused_job_and_one_that_waits_for_another_need_nothing() -> None:
    assert need(world(0, waiting=[job("a", 4, active=False), job("b", 4, unmet=("x",))])).more == 0


def test_headroom_of_endpoints_is_asked_for_like_a_job() -> None:
    snap = world(1)
    assert need(replace(snap, pools=(replace(snap.pools[0], headroom=6),))).more == 1
    busy = world(1, waiting=[job("a", 4)])
    assert need(replace(busy, pools=(replace(busy.pools[0], headroom=4),))).more == 1


def test_nodes_on_which_nobody_sits_are_spare_and_no_others_are() -> None:
    snap = hold(world(4), job("a", 2), 2, node="n0001")
    drains = replace(lease_of(job("b", 1), "pool", (("n0002", 1),), 0.0), state=LeaseState.DRAINING, until_s=1010.0)
    snap = replace(snap, leases=(*snap.leases, drains))
    assert need(snap) == Need(spare=("n0000", "n0003"))


def test_a_node_that_is_given_out_now_is_not_spare() -> None:
    assert len(need(world(2, waiting=[job("a", 4)])).spare) == 1


def test_what_endpoints_need_is_not_spare() -> None:
    snap = world(3)
    assert need(replace(snap, pools=(replace(snap.pools[0], headroom=5),))).spare == ("n0000",)


def test_while_nodes_are_missing_none_is_spare() -> None:
    assert need(world(2, waiting=[job("a", 12)])) == Need(more=1)
