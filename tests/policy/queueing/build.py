"""Small words to write snapshots with, and a world that does what was decided: drains end at once, or by the clock."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Admit, Decisions, Evict, Explanation, Placement, Reject, Resize, Wait
from orchestrator.policy.queueing.parties import Queue, Quota, Reach, Rules
from orchestrator.policy.queueing.places import Node, Pool, flat_pool
from orchestrator.policy.queueing.values import Job, Lease, LeaseState, Running, Snapshot

RULES = Rules(
    tight=Reach(),
    modular=Reach(),
    island_min_workers=2,
    unknown_run_s=86_400.0,
    drain_grace_s=60.0,
    urgent_s=600.0,
    max_starts=10_000,
    usage_half_life_s=3600.0,
)


def job(name: str, devices: int | range = 1, **more) -> Job:
    sizes = tuple(devices) if isinstance(devices, range) else (devices,)
    values = {"queue": "main", "tenant": "red", "priority": 50, "submitted_s": 0.0, "work_s": None} | more
    return Job(id=name, sizes=sizes, **values)


def queue(name: str = "main", nominal: int = 1000, pool: str = "pool", **more) -> Queue:
    limits = {key: more.pop(key) for key in ("borrow", "lend") if key in more}
    return Queue(name=name, quotas=(Quota(pool=pool, nominal=nominal, **limits),), **more)


def nodes(count: int, devices: int, place: tuple[str, ...] = (), prefix: str = "n") -> tuple[Node, ...]:
    return tuple(Node(name=f"{prefix}{at:04d}", devices=devices, place=place) for at in range(count))


def gpu_pool(name: str, of: tuple[Node, ...], **more) -> Pool:
    values = {"resource": "GPU", "device": "gpu", "micro_usd_per_device_hour": 1_000_000} | more
    return Pool(name=name, nodes=of, **values)


def snapshot(devices: int = 8, *, running=(), **more) -> Snapshot:
    """A flat pool called pool, a queue called main and what else is said; `running` pairs jobs with their workers."""
    values = {
        "now_s": 1000.0,
        "rules": RULES,
        "pools": (flat_pool("pool", devices),),
        "queues": (queue(),),
        "tenants": (),
    } | more
    snap = Snapshot(**values)
    for one, workers in running:
        snap = hold(snap, one, workers)
    return snap


def hold(snap: Snapshot, one: Job, workers: int, *, node: str = "", started_s: float = 0.0, **more) -> Snapshot:
    pool = snap.pools[0]
    lease = lease_of(one, pool.name, ((node or pool.nodes[0].name, workers * one.devices_per_worker),), started_s)
    running = Running(job=one, started_s=started_s, **more)
    return replace(snap, running=(*snap.running, running), leases=(*snap.leases, lease))


def lease_of(one: Job, pool: str, on: tuple[tuple[str, int], ...], since_s: float) -> Lease:
    return Lease(holder=one.id, pool=pool, nodes=on, since_s=since_s, queue=one.queue, tenant=one.tenant)


def verdicts(decisions: Decisions) -> dict[str, Admit | Wait | Reject]:
    return {one.job: one for one in decisions.verdicts()}


def started(decisions: Decisions) -> dict[str, int]:
    return {one.job: workers(one.placement) for one in decisions.starts}


def waits(decisions: Decisions) -> dict[str, str]:
    return {job: group.why.reason.value for group in decisions.waits for job in group.jobs}


def why(decisions: Decisions, name: str) -> Explanation:
    found = verdicts(decisions)[name]
    assert not isinstance(found, Admit), f"{name} starts"
    return found.why


def workers(placement: Placement) -> int:
    return sum(seats.workers for seats in placement)


def changes(decisions: Decisions) -> dict[str, tuple[str, int]]:
    """What becomes of running jobs: cause and workers that are left."""
    return {
        one.job: (one.cause.value, workers(one.placement) if isinstance(one, Resize) else 0)
        for one in decisions.changes
    }


def apply(snap: Snapshot, decisions: Decisions, *, drain: bool = False) -> Snapshot:
    """The snapshot after everything was done. With `drain`, what is given back drains until it was told to be gone."""
    jobs = {one.id: one for one in snap.waiting}
    running = {one.job.id: one for one in snap.running}
    leases = list(snap.leases)
    waiting = dict(jobs)
    states = dict(decisions.resize_states)
    for one in decisions.starts:
        started_job = waiting.pop(one.job)
        running[one.job] = Running(job=started_job, started_s=snap.now_s, reserved=one.reserve)
        leases += _leases(started_job, one.placement, snap.now_s)
    for change in decisions.changes:
        before = running[change.job]
        mine = [lease for lease in leases if lease.holder == change.job and lease.state is LeaseState.HELD]
        leases = [lease for lease in leases if lease not in mine]
        kept = change.placement if isinstance(change, Resize) else ()
        leases += _leases(before.job, kept, snap.now_s)
        if drain:
            leases += _drains(mine, kept, before.job, change.drain_until_s)
        if isinstance(change, Evict):
            del running[change.job]
            if change.requeue:
                waiting[change.job] = before.job
    for name, state in states.items():
        if name in running and running[name].tempo is not None:
            running[name] = replace(running[name], tempo=replace(running[name].tempo, state=state))
    return replace(
        snap,
        waiting=tuple(waiting.values()),
        running=tuple(running.values()),
        leases=tuple(leases),
        claims=decisions.claims,
        promises=decisions.promises,
    )


def _leases(one: Job, placement: Placement, now_s: float) -> list[Lease]:
    by_pool: dict[str, list[tuple[str, int]]] = {}
    for seats in placement:
        by_pool.setdefault(seats.pool, []).append((seats.node, seats.workers * one.devices_per_worker))
    return [lease_of(one, pool, tuple(on), now_s) for pool, on in by_pool.items()]


def _drains(mine: list[Lease], kept: Placement, one: Job, until_s: float) -> list[Lease]:
    left = {(seats.pool, seats.node): seats.workers * one.devices_per_worker for seats in kept}
    found = []
    for lease in mine:
        gone = tuple((node, count - left.get((lease.pool, node), 0)) for node, count in lease.nodes)
        gone = tuple((node, count) for node, count in gone if count > 0)
        if gone:
            found.append(replace(lease, nodes=gone, state=LeaseState.DRAINING, until_s=until_s))
    return found


def settle(snap: Snapshot, *, rounds: int = 50) -> tuple[Snapshot, int]:
    """Decide and do until nothing changes any more; how many rounds that took."""
    for done in range(rounds):
        after = apply(snap, decide_queues(snap))
        if canonical(after) == canonical(snap):
            return snap, done
        snap = after
    raise AssertionError(f"still changing after {rounds} rounds")


def canonical(snap: Snapshot) -> tuple:
    """What a snapshot says about who holds what."""
    held: dict[tuple[str, str, str], int] = {}
    for lease in snap.leases:
        for node, count in lease.nodes:
            key = (lease.holder, lease.pool, node)
            held[key] = held.get(key, 0) + count
    return tuple(sorted(held.items())), tuple(sorted(one.id for one in snap.waiting))


def held_by(snap: Snapshot, tenant: str) -> int:
    return sum(lease.devices for lease in snap.leases if lease.tenant == tenant)
