"""What could help against each reason to wait: first what the job's owner can do, then what an operator can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from orchestrator.policy.queueing.decisions import Decisions, Evict, Explanation, Placement, WaitReason
from orchestrator.policy.queueing.edits import (
    AddDevices,
    AddTenant,
    CutHeadroom,
    Edit,
    GiveBack,
    GrantMoney,
    GrantSteps,
    LiftBudget,
    MeetDependencies,
    MoveToQueue,
    RaiseQuota,
    RaiseStarts,
    ReleaseNodes,
    ReleaseQueue,
    ResumeJob,
    SeePool,
    SetCoupling,
    SetMinWorkers,
    SetPriority,
    SetWindow,
    StageData,
)
from orchestrator.policy.queueing.money import expected_bill
from orchestrator.policy.queueing.values import Coupling, Job, LeaseState, Snapshot

# Beyond any cluster there is.
_MOST_DOUBLINGS = 24
_LOOSER = {Coupling.TIGHT: Coupling.MODULAR, Coupling.MODULAR: Coupling.LOOSE}


def remedies(snapshot: Snapshot, decisions: Decisions, job: Job, why: Explanation, *, times: int) -> Iterator[Edit]:
    """Edits that could help, most modest first. `times`: edits made so far, from which amounts are doubled."""
    more = max(1, why.missing) << min(times, _MOST_DOUBLINGS)
    pool = why.pool or ""
    match why.reason:
        case WaitReason.DEACTIVATED:
            yield ResumeJob(job.id)
        case WaitReason.ON_HOLD:
            yield ReleaseQueue(job.queue)
        case WaitReason.MISCONFIGURED:
            yield from _reconfigured(snapshot, job)
        case WaitReason.NO_MATCHING_POOL:
            yield from _other_queues(snapshot, job)
            yield from _new_pools(snapshot, job)
        case WaitReason.EXCEEDS_MAX_QUOTA:
            yield from _fewer_workers(job, job.min_devices - why.missing)
            yield RaiseQuota(job.queue, pool, more)
            yield from _other_queues(snapshot, job)
        case WaitReason.WAITING_FOR_QUOTA:
            yield from _fewer_workers(job, job.min_devices - why.missing)
            yield from _higher_class(snapshot, job)
            yield RaiseQuota(job.queue, pool, more)
        case WaitReason.TOPOLOGY_PLACEMENT_FAILED:
            if job.coupling in _LOOSER:
                yield SetCoupling(job.id, _LOOSER[job.coupling])
            yield AddDevices(pool, more)
        case WaitReason.WAITING_FOR_PREEMPTED:
            yield GiveBack(tuple(_asked_back(snapshot, decisions, pool)))
        case WaitReason.OUTSIDE_WINDOW | WaitReason.WINDOW_TOO_SHORT:
            yield SetWindow(job.id, None)
        case WaitReason.BUDGET_EXHAUSTED | WaitReason.BUDGET_RESERVED:
            yield from _money(snapshot, job, pool, times)
        case WaitReason.SERVE_HEADROOM:
            yield from _fewer_workers(job, job.min_devices - why.missing)
            yield CutHeadroom(pool, why.missing)
        case WaitReason.BACKFILL_RESERVATION | WaitReason.GANG_INCOMPLETE:
            yield from _fewer_workers(job, job.min_devices - why.missing)
            yield from _higher_class(snapshot, job)
            yield RaiseQuota(job.queue, pool, more) if why.of_quota else AddDevices(pool, more)
        case WaitReason.DATA_NOT_STAGED:
            yield StageData(job.id)
        case WaitReason.DEPENDENCY_PENDING:
            yield MeetDependencies(job.id)
        case WaitReason.NODE_HEALTH_HOLD:
            yield ReleaseNodes(pool)
        case WaitReason.PENDING_EVALUATION:
            yield SeePool(pool) if why.pool is not None else RaiseStarts(snapshot.rules.max_starts << 1)
        case _:
            assert_never(why.reason)


def _fewer_workers(job: Job, devices: int) -> Iterator[Edit]:
    """Accept what could be had: only for jobs that are elastic, a fixed size may mean something to its owner."""
    workers = devices // job.devices_per_worker
    if 1 <= workers < job.sizes[0] and len(job.sizes) > 1:
        yield SetMinWorkers(job.id, workers)


def _higher_class(snapshot: Snapshot, job: Job) -> Iterator[Edit]:
    """Go before the others of its queue."""
    others = [one.priority for one in snapshot.waiting if one.queue == job.queue and one.id != job.id]
    others += [one.job.priority for one in snapshot.running if one.job.queue == job.queue]
    if others and max(others) >= job.priority:
        yield SetPriority(job.id, max(others) + 1)


def _other_queues(snapshot: Snapshot, job: Job) -> Iterator[Edit]:
    fitting = {pool.name for pool in snapshot.pools if pool.resource == job.resource}
    for queue in sorted(snapshot.queues, key=lambda one: one.name):
        open_to = not queue.tenants or job.tenant in queue.tenants
        if queue.name != job.queue and open_to and any(quota.pool in fitting for quota in queue.quotas):
            yield MoveToQueue(job.id, queue.name)


def _new_pools(snapshot: Snapshot, job: Job) -> Iterator[Edit]:
    for pool in sorted(snapshot.pools, key=lambda one: one.name):
        if pool.resource == job.resource:
            yield RaiseQuota(job.queue, pool.name, job.min_devices)


def _reconfigured(snapshot: Snapshot, job: Job) -> Iterator[Edit]:
    queue = next((one for one in snapshot.queues if one.name == job.queue), None)
    if queue is not None and all(hours.window.name != job.window for hours in snapshot.windows):
        yield SetWindow(job.id, None)
    yield from _other_queues(snapshot, job)
    if queue is not None:
        yield AddTenant(job.tenant, job.queue)


def _money(snapshot: Snapshot, job: Job, pool: str, times: int) -> Iterator[Edit]:
    """Without a pool it is the job's own budget that does not do."""
    price = next((one.micro_usd_per_device_hour for one in snapshot.pools if one.name == pool), None)
    if price is None:
        yield LiftBudget(job.id)
        return
    steps = _steps_missing(snapshot, job)
    if steps:
        yield GrantSteps(job.tenant, steps << min(times, _MOST_DOUBLINGS))
    cost = expected_bill(job, job.sizes[0], snapshot.rules.unknown_run_s, price)
    yield GrantMoney(job.tenant, max(1, cost.micro_usd) << min(times, _MOST_DOUBLINGS))


def _steps_missing(snapshot: Snapshot, job: Job) -> int:
    """Steps that a tenant lacks for a job, if it has been granted some and has some left; else 0."""
    purse = next((one.purse for one in snapshot.tenants if one.name == job.tenant), None)
    if purse is None or purse.iterations <= 0 or not job.steps_left:
        return 0
    others = sum(one.reserved.iterations for one in snapshot.running if one.job.tenant == job.tenant)
    return max(0, job.steps_left - (purse.iterations - others))


def _asked_back(snapshot: Snapshot, decisions: Decisions, pool: str) -> Iterator[tuple[str, str, str, int]]:
    """What drains in the pool already, what claims ask of others (not only the job's own, which may come second), and
    what must be given back anyway, as for endpoints."""
    asked: dict[str, Placement] = {
        one.job: () if isinstance(one, Evict) else one.placement for one in decisions.changes
    }
    workers = {one.job.id: one.job.devices_per_worker for one in snapshot.running}
    for lease in snapshot.leases:
        if lease.state is LeaseState.DRAINING and lease.pool == pool:
            yield from ((lease.holder, pool, node, devices) for node, devices in lease.nodes)
        elif lease.holder in asked:
            kept = {
                seats.node: seats.workers * workers[lease.holder]
                for seats in asked[lease.holder]
                if seats.pool == lease.pool
            }
            for node, devices in lease.nodes:
                if devices > kept.get(node, 0):
                    yield lease.holder, lease.pool, node, devices - kept.get(node, 0)
