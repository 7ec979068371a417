"""Edits of a snapshot: the changes that would start a job, and those people ask about (`--what-if`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from orchestrator.policy.queueing.money import plus
from orchestrator.policy.queueing.parties import Purse, Queue, Quota, Tenant
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.policy.queueing.values import UNLIMITED, Coupling, Job, Lease, Snapshot


@dataclass(frozen=True, slots=True)
class ResumeJob:
    """The owner lets a paused job go on."""

    job: str


@dataclass(frozen=True, slots=True)
class SetMinWorkers:
    """The job accepts fewer workers (or insists on more): a new lower end of its sizes."""

    job: str
    min_workers: int


@dataclass(frozen=True, slots=True)
class SetPriority:
    """The job's class changes."""

    job: str
    priority: int


@dataclass(frozen=True, slots=True)
class SetCoupling:
    """The job's workers may sit further apart (or must sit closer)."""

    job: str
    coupling: Coupling


@dataclass(frozen=True, slots=True)
class SetWindow:
    """The job runs in another window; None = at any time."""

    job: str
    window: str | None


@dataclass(frozen=True, slots=True)
class MoveToQueue:
    """The job is submitted to another queue."""

    job: str
    queue: str


@dataclass(frozen=True, slots=True)
class StageData:
    """The job's data set is brought to the cluster."""

    job: str


@dataclass(frozen=True, slots=True)
class MeetDependencies:
    """The jobs it waits for have succeeded."""

    job: str


@dataclass(frozen=True, slots=True)
class LiftBudget:
    """The job's own budget is taken away."""

    job: str


@dataclass(frozen=True, slots=True)
class GrantMoney:
    """A sponsor gives a tenant money."""

    tenant: str
    micro_usd: int


@dataclass(frozen=True, slots=True)
class GrantSteps:
    """A sponsor gives a tenant optimizer steps."""

    tenant: str
    steps: int


@dataclass(frozen=True, slots=True)
class AddTenant:
    """A tenant is entered in the cluster, and may submit to a queue."""

    tenant: str
    queue: str


@dataclass(frozen=True, slots=True)
class ReleaseQueue:
    """An operator lets a queue start jobs again."""

    queue: str


@dataclass(frozen=True, slots=True)
class RaiseQuota:
    """A queue's nominal quota in a pool grows by so many devices."""

    queue: str
    pool: str
    devices: int


@dataclass(frozen=True, slots=True)
class AddDevices:
    """A pool grows by one node with so many devices."""

    pool: str
    devices: int


@dataclass(frozen=True, slots=True)
class CutHeadroom:
    """Fewer devices are kept for endpoints."""

    pool: str
    devices: int


@dataclass(frozen=True, slots=True)
class ReleaseNodes:
    """Nodes of a pool that are held back take new work again."""

    pool: str


@dataclass(frozen=True, slots=True)
class SeePool:
    """A pool that was out of sight is observed again."""

    pool: str


@dataclass(frozen=True, slots=True)
class RaiseStarts:
    """One cycle may start more jobs."""

    max_starts: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Devices that were asked back, or drain already, are given back: (holder, pool, node, devices)."""

    seats: tuple[tuple[str, str, str, int], ...]


JobEdit = (
    ResumeJob
    | SetMinWorkers
    | SetPriority
    | SetCoupling
    | SetWindow
    | MoveToQueue
    | StageData
    | MeetDependencies
    | LiftBudget
)
PartyEdit = GrantMoney | GrantSteps | AddTenant | ReleaseQueue | RaiseQuota
PlaceEdit = AddDevices | CutHeadroom | ReleaseNodes | SeePool
Edit = JobEdit | PartyEdit | PlaceEdit | RaiseStarts | GiveBack


def apply_edit(snapshot: Snapshot, edit: Edit) -> Snapshot:
    """A copy of a snapshot with one edit made; names that are not there change nothing."""
    match edit:
        case GrantMoney() | GrantSteps() | AddTenant() | ReleaseQueue() | RaiseQuota():
            return _edit_party(snapshot, edit)
        case AddDevices() | CutHeadroom() | ReleaseNodes() | SeePool():
            pools = tuple(_edit_pool(pool, edit) if pool.name == edit.pool else pool for pool in snapshot.pools)
            return replace(snapshot, pools=pools)
        case RaiseStarts(max_starts=most):
            return replace(snapshot, rules=replace(snapshot.rules, max_starts=most))
        case GiveBack():
            return _give_back(snapshot, edit)
        case _:
            waiting = tuple(_edit_job(job, edit) if job.id == edit.job else job for job in snapshot.waiting)
            return replace(snapshot, waiting=waiting)


def _edit_job(job: Job, edit: JobEdit) -> Job:
    match edit:
        case ResumeJob():
            return replace(job, active=True)
        case SetMinWorkers(min_workers=least):
            return replace(job, sizes=(least, *(size for size in job.sizes if size > least)))
        case SetPriority(priority=priority):
            return replace(job, priority=priority)
        case SetCoupling(coupling=coupling):
            return replace(job, coupling=coupling)
        case SetWindow(window=window):
            return replace(job, window=window)
        case MoveToQueue(queue=queue):
            return replace(job, queue=queue)
        case StageData():
            return replace(job, data_staged=True)
        case MeetDependencies():
            return replace(job, unmet=())
        case LiftBudget():
            return replace(job, spending=UNLIMITED)
        case _:
            assert_never(edit)


def _edit_party(snapshot: Snapshot, edit: PartyEdit) -> Snapshot:
    match edit:
        case GrantMoney(tenant=name, micro_usd=amount):
            more = Purse(micro_usd=amount)
            return replace(snapshot, tenants=_each(snapshot.tenants, name, lambda one: _granted(one, more)))
        case GrantSteps(tenant=name, steps=steps):
            more = Purse(iterations=steps)
            return replace(snapshot, tenants=_each(snapshot.tenants, name, lambda one: _granted(one, more)))
        case AddTenant(tenant=name, queue=queue):
            known = any(one.name == name for one in snapshot.tenants)
            tenants = snapshot.tenants if known or not snapshot.tenants else (*snapshot.tenants, Tenant(name=name))
            queues = _each_queue(snapshot.queues, queue, lambda one: replace(one, tenants=_with(one, name)))
            return replace(snapshot, tenants=tenants, queues=queues)
        case ReleaseQueue(queue=queue):
            return replace(
                snapshot, queues=_each_queue(snapshot.queues, queue, lambda one: replace(one, on_hold=False))
            )
        case RaiseQuota(queue=queue, pool=pool, devices=devices):
            return replace(
                snapshot, queues=_each_queue(snapshot.queues, queue, lambda one: _raised(one, pool, devices))
            )
        case _:
            assert_never(edit)


def _each(tenants: tuple[Tenant, ...], name: str, change: Callable[[Tenant], Tenant]) -> tuple[Tenant, ...]:
    return tuple(change(one) if one.name == name else one for one in tenants)


def _each_queue(queues: tuple[Queue, ...], name: str, change: Callable[[Queue], Queue]) -> tuple[Queue, ...]:
    return tuple(change(one) if one.name == name else one for one in queues)


def _granted(tenant: Tenant, more: Purse) -> Tenant:
    return replace(tenant, purse=plus(tenant.purse or Purse(), more))


def _with(queue: Queue, tenant: str) -> frozenset[str]:
    return queue.tenants | {tenant} if queue.tenants else queue.tenants


def _raised(queue: Queue, pool: str, devices: int) -> Queue:
    if all(quota.pool != pool for quota in queue.quotas):
        return replace(queue, quotas=(*queue.quotas, Quota(pool=pool, nominal=devices)))
    quotas = tuple(replace(one, nominal=one.nominal + devices) if one.pool == pool else one for one in queue.quotas)
    return replace(queue, quotas=quotas)


def _edit_pool(pool: Pool, edit: PlaceEdit) -> Pool:
    match edit:
        case AddDevices(devices=devices):
            place = pool.nodes[0].place if pool.nodes else ()
            name = f"added-{sum(node.name.startswith('added-') for node in pool.nodes)}"
            return replace(pool, nodes=(*pool.nodes, Node(name=name, devices=devices, place=place)))
        case CutHeadroom(devices=devices):
            return replace(pool, headroom=max(0, pool.headroom - devices))
        case ReleaseNodes():
            return replace(pool, nodes=tuple(_released(node) for node in pool.nodes))
        case SeePool():
            return replace(pool, in_sight=True)
        case _:
            assert_never(edit)


def _released(node: Node) -> Node:
    return replace(node, state=NodeState.OK, leaves_at_s=None) if node.state is NodeState.HELD else node


def _give_back(snapshot: Snapshot, edit: GiveBack) -> Snapshot:
    """Take the devices off their holders' leases; who holds nothing any more waits again."""
    owed: dict[tuple[str, str, str], int] = {}
    for holder, pool, node, devices in edit.seats:
        owed[holder, pool, node] = owed.get((holder, pool, node), 0) + devices
    leases = tuple(left for lease in snapshot.leases if (left := _reduced(lease, owed)).nodes)
    holders = {lease.holder for lease in leases}
    stopped = tuple(one.job for one in snapshot.running if one.job.id not in holders)
    running = tuple(one for one in snapshot.running if one.job.id in holders)
    return replace(snapshot, leases=leases, running=running, waiting=(*snapshot.waiting, *stopped))


def _reduced(lease: Lease, owed: dict[tuple[str, str, str], int]) -> Lease:
    nodes = []
    for node, devices in lease.nodes:
        given = min(devices, owed.get((lease.holder, lease.pool, node), 0))
        if given:
            owed[lease.holder, lease.pool, node] -= given
        if devices > given:
            nodes.append((node, devices - given))
    return replace(lease, nodes=tuple(nodes))
