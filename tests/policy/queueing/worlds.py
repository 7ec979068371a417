"""Random clusters for property tests: small enough to be read when one fails, odd enough to hit the corners."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from orchestrator.policy.queueing.parties import Contribution, Queue, Quota, Reach, Tenant
from orchestrator.policy.queueing.places import Level, Node, NodeState
from orchestrator.policy.queueing.values import Coupling, Job, Running, Snapshot
from tests.policy.queueing.build import RULES, gpu_pool, lease_of, snapshot

CLASSES = (10, 50, 90)
LEVELS = (
    Level(name="block", bandwidth_bytes_per_s=1e9),
    Level(name="rack", bandwidth_bytes_per_s=1e10),
)
NEAR = replace(RULES, tight=Reach(min_bandwidth_bytes_per_s=5e9), modular=Reach(min_bandwidth_bytes_per_s=5e8))

sizes = st.sampled_from([(1,), (2,), (3,), (5,), (8,), (1, 2, 3, 4), (2, 4, 8), (1, 2, 3, 4, 5, 6, 7, 8), (3, 6)])


@st.composite
def jobs(draw, name: str, queues: list[str], tenants: list[str]) -> Job:
    return Job(
        id=name,
        queue=draw(st.sampled_from(queues)),
        tenant=draw(st.sampled_from(tenants)),
        priority=draw(st.sampled_from(CLASSES)),
        submitted_s=float(draw(st.integers(0, 9))),
        sizes=draw(sizes),
        devices_per_worker=draw(st.sampled_from([1, 1, 1, 2])),
        coupling=draw(st.sampled_from([Coupling.TIGHT, Coupling.TIGHT, Coupling.MODULAR, Coupling.LOOSE])),
        work_s=draw(st.sampled_from([None, 60.0, 600.0, 6000.0])),
    )


@st.composite
def clusters(draw, *, most_jobs: int = 8, min_run: bool = True, held_nodes: bool = True) -> Snapshot:
    """Up to two pools of a few nodes, up to three queues in up to two cohorts, up to three tenants."""
    pools = tuple(
        gpu_pool(name, tuple(_nodes(draw, name, held_nodes)), headroom=draw(st.sampled_from([0, 0, 0, 2])))
        for name in ("p", "q")[: draw(st.integers(1, 2))]
    )
    tenants = tuple(_tenant(draw, name, pools) for name in ("blue", "green", "red")[: draw(st.integers(1, 3))])
    queues = tuple(_queue(draw, name, pools, min_run) for name in ("x", "y", "z")[: draw(st.integers(1, 3))])
    names, members = [one.name for one in queues], [one.name for one in tenants]
    snap = snapshot(pools=pools, tenants=tenants, queues=queues, levels=LEVELS, rules=NEAR)
    number = draw(st.integers(0, most_jobs))
    everybody = [draw(jobs(f"j{at}", names, members)) for at in range(number)]
    free = {(pool.name, node.name): node.devices for pool in pools for node in pool.nodes}
    waiting = []
    for one in everybody:
        on = _seats(draw, one, snap, free) if draw(st.booleans()) else None
        if on is None:
            waiting.append(one)
            continue
        pool, seats = on
        snap = replace(
            snap,
            leases=(*snap.leases, lease_of(one, pool, seats, 0.0)),
            running=(*snap.running, _running(draw, one)),
        )
    return replace(snap, waiting=tuple(waiting))


def _nodes(draw, pool, held):
    states = st.sampled_from([NodeState.OK] * 4 + [NodeState.HELD]) if held else st.just(NodeState.OK)
    for at in range(draw(st.integers(1, 4))):
        place = (draw(st.sampled_from(["a", "b"])), draw(st.sampled_from(["r1", "r2"])))
        yield Node(name=f"{pool}{at}", devices=draw(st.integers(1, 6)), place=place, state=draw(states))


def _tenant(draw, name, pools):
    brought = draw(st.sampled_from([0, 0, 2, 5]))
    contributions = (Contribution(pool=pools[0].name, devices=brought, recall_grace_s=30.0),) if brought else ()
    return Tenant(name=name, weight=draw(st.sampled_from([1.0, 2.0])), contributions=contributions)


def _queue(draw, name, pools, min_run):
    limit = st.sampled_from([None, 0, 3])
    quotas = tuple(
        Quota(
            pool=pool.name, nominal=(nominal := draw(st.integers(0, 10))), borrow=draw(limit), lend=_lend(draw, nominal)
        )
        for pool in pools
    )
    cohort = draw(st.sampled_from([None, "all", "all"]))
    return Queue(name=name, quotas=quotas, cohort=cohort, min_run_s=draw(st.sampled_from([0.0, 0.0, 2000.0])) * min_run)


def _lend(draw, nominal):
    lend = draw(st.sampled_from([None, 0, 4]))
    return None if lend is None else min(lend, nominal)


def _seats(draw, one, snap, free):
    """Seats on nodes as they come: what an earlier, other policy might have left behind."""
    pool = draw(st.sampled_from(snap.pools))
    left, seats = draw(st.sampled_from(one.sizes)), []
    for node in pool.nodes:
        take = min(left, free[pool.name, node.name] // one.devices_per_worker)
        if take:
            seats.append((node.name, take * one.devices_per_worker))
            left -= take
    if left:
        return None
    for node, devices in seats:
        free[pool.name, node] -= devices
    return pool.name, tuple(seats)


def _running(draw, one):
    return Running(
        job=one,
        started_s=float(draw(st.integers(0, 900))),
        lost_work_s=float(draw(st.integers(0, 3))),
        checkpoint_age_s=float(draw(st.integers(0, 3))),
    )


@st.composite
def contended(draw, *, most_jobs: int = 8) -> Snapshot:
    """One flat pool that is full, two queues of a cohort, two tenants: everybody wants what somebody else has."""
    devices = draw(st.integers(4, 12))
    nominal = draw(st.integers(0, devices))
    limit = st.sampled_from([None, None, 2])
    queues = tuple(
        Queue(
            name=name,
            quotas=(Quota(pool="pool", nominal=part, borrow=draw(limit)),),
            cohort="all",
            weight=draw(st.sampled_from([1.0, 3.0])),
        )
        for name, part in (("x", nominal), ("y", devices - nominal))
    )
    tenants = tuple(_contended_tenant(draw, name) for name in ("blue", "red"))
    snap = snapshot(devices, queues=queues, tenants=tenants)
    free, waiting = devices, []
    for at in range(draw(st.integers(1, most_jobs))):
        one = replace(draw(jobs(f"j{at}", ["x", "y"], ["blue", "red"])), devices_per_worker=1, coupling=Coupling.TIGHT)
        fitting = [size for size in one.sizes if size <= free]
        if not fitting:
            waiting.append(one)
            continue
        free -= fitting[-1]
        lease = lease_of(one, "pool", (("pool", fitting[-1]),), 0.0)
        snap = replace(snap, leases=(*snap.leases, lease), running=(*snap.running, _running(draw, one)))
    return replace(snap, waiting=tuple(waiting))


def _contended_tenant(draw, name):
    brought = draw(st.sampled_from([0, 0, 2, 4]))
    contributions = (Contribution(pool="pool", devices=brought, recall_grace_s=30.0),) if brought else ()
    return Tenant(name=name, weight=draw(st.sampled_from([1.0, 2.0])), contributions=contributions)
