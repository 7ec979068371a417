"""The working board of one decision: what is charged now, what will be once drains are over, and what was decided.

Built from a snapshot, changed while the decision is made, thrown away after it. `now` is what binds starts: draining
devices are still charged (quota that moves before the devices do lost work elsewhere, kueue#13646). `later` is the
same without drains and victims, and with everybody who has a claim: what preemption reasons about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.policy.queueing.decisions import Placement, Seats
from orchestrator.policy.queueing.ground import Ground, Taken
from orchestrator.policy.queueing.money import plus
from orchestrator.policy.queueing.parties import NOTHING, Purse, Queue
from orchestrator.policy.queueing.places import OpenHours, Pool
from orchestrator.policy.queueing.quota import Account, Quotas
from orchestrator.policy.queueing.shares import Shares
from orchestrator.policy.queueing.topology import reach_depths
from orchestrator.policy.queueing.values import Coupling, Job, Lease, LeaseState, Running, Snapshot


@dataclass(slots=True)
class Books:
    """Quota and shares, charged together."""

    quotas: Quotas
    shares: Shares

    def charge(self, queue: str | None, tenant: str | None, pool: Pool, devices: int) -> None:
        """Charge devices of a pool to a queue and a tenant; a negative number gives back."""
        self.quotas.charge(queue, pool.name, devices)
        self.shares.charge(tenant, pool.resource, pool.name, devices)

    def charge_all(self, sums: Sums, grounds: Mapping[str, Ground]) -> None:
        """Charge what many leases hold together."""
        for (queue, pool), devices in sums.queues.items():
            self.quotas.charge(queue, pool, devices)
        for (tenant, pool), devices in sums.tenants.items():
            self.shares.charge(tenant, grounds[pool].pool.resource, pool, devices)


@dataclass(slots=True)
class Sums:
    """Devices that leases hold, by (queue, pool) and by (tenant, pool)."""

    queues: dict[tuple[str | None, str], int] = field(default_factory=dict)
    tenants: dict[tuple[str | None, str], int] = field(default_factory=dict)

    def add(self, lease: Lease, devices: int) -> None:
        """Count a lease."""
        queue, tenant = (lease.queue, lease.pool), (lease.tenant, lease.pool)
        self.queues[queue] = self.queues.get(queue, 0) + devices
        self.tenants[tenant] = self.tenants.get(tenant, 0) + devices


@dataclass(slots=True)
class Sitting:
    """A running job in this decision: where it sits, in devices per (pool, node index), and what became of it."""

    running: Running
    seats: dict[str, dict[int, int]]
    before: dict[str, dict[int, int]]
    changed: bool = False

    @property
    def job(self) -> Job:
        """What it runs."""
        return self.running.job

    @property
    def devices(self) -> int:
        """Devices it sits on."""
        if len(self.seats) == 1:
            (nodes,) = self.seats.values()
            return sum(nodes.values())
        return sum([sum(nodes.values()) for nodes in self.seats.values()])

    @property
    def workers(self) -> int:
        """Workers it has."""
        return self.devices // self.running.job.devices_per_worker

    def in_pool(self, pool: str) -> int:
        """Devices it sits on in a pool."""
        return sum(self.seats.get(pool, {}).values())


@dataclass(slots=True)
class Board:
    """Everything a decision works with, by name; leases by pool. `closes`: when windows close, as far as was asked."""

    snapshot: Snapshot
    grounds: dict[str, Ground]
    queues: dict[str, Queue]
    windows: dict[str, OpenHours]
    now: Books
    later: Books
    depths: dict[Coupling, int]
    sittings: dict[str, Sitting]
    leases: dict[str, list[Lease]]
    purses: dict[str, Purse]
    reserved: dict[str, Purse]
    started: list[tuple[Job, float, str, Taken]] = field(default_factory=list)
    closes: dict[str, float] = field(default_factory=dict)
    _pools: dict[tuple[str, str, str | None], tuple[str, ...]] = field(default_factory=dict)

    def account(self, queue: str, pool: str) -> Account:
        """What binds a queue's starts in a pool."""
        return self.now.quotas.accounts[queue, pool]

    def candidates(self, job: Job) -> tuple[str, ...]:
        """Pools a job may use: its queue's, of its resource, that its window opens; cheapest first."""
        key = (job.queue, job.resource, job.window)
        if key not in self._pools:
            self._pools[key] = self._find_pools(*key)
        return self._pools[key]

    def _find_pools(self, queue: str, resource: str, window: str | None) -> tuple[str, ...]:
        opened = self.windows[window].pools if window is not None else frozenset()
        named = (self.grounds[quota.pool].pool for quota in self.queues[queue].quotas if quota.pool in self.grounds)
        fitting = [pool for pool in named if pool.resource == resource and (not opened or pool.name in opened)]
        fitting.sort(key=lambda pool: (pool.micro_usd_per_device_hour, pool.name))
        return tuple(pool.name for pool in fitting)

    def charge_both(self, job: Job, pool: str, devices: int) -> None:
        """Charge a job's queue and tenant, now and later."""
        for books in (self.now, self.later):
            books.charge(job.queue, job.tenant, self.grounds[pool].pool, devices)

    def set_aside(self, tenant: str, amount: Purse) -> None:
        """Reserve an amount in a tenant's purse."""
        self.reserved[tenant] = plus(self.reserved.get(tenant, Purse()), amount)

    def placement(self, job: Job, seats: dict[str, dict[int, int]]) -> Placement:
        """Seats of a job by name, in order of position."""
        return tuple(
            Seats(pool, self.grounds[pool].names[at], devices // job.devices_per_worker)
            for pool in sorted(seats)
            for at, devices in sorted(seats[pool].items())
            if devices
        )


def workers_before(sitting: Sitting) -> int:
    """Workers it had when the snapshot was taken, vanished ones not counted."""
    devices = sum([sum(nodes.values()) for nodes in sitting.before.values()])
    return devices // sitting.job.devices_per_worker


def set_up(snapshot: Snapshot) -> Board:
    """Charge every lease of a snapshot to its nodes, its queue and its tenant."""
    grounds = {pool.name: Ground.of(pool) for pool in snapshot.pools}
    resource_of = {pool.name: pool.resource for pool in snapshot.pools}
    now, later = (Books(Quotas.of(snapshot.queues), Shares.of(snapshot.tenants, resource_of)) for _ in range(2))
    sittings = {one.job.id: Sitting(one, {}, {}) for one in snapshot.running}
    held, draining = Sums(), Sums()
    leases: dict[str, list[Lease]] = {name: [] for name in grounds}
    for lease in snapshot.leases:
        ground = grounds.get(lease.pool)
        if ground is None:
            continue
        leases[lease.pool].append(lease)
        ground.charge(lease.nodes)
        if lease.state is LeaseState.DRAINING:
            draining.add(lease, lease.devices)
            _expect(lease, ground, snapshot.now_s)
        else:
            held.add(lease, lease.devices)
            _seat(lease, ground, sittings.get(lease.holder))
    now.charge_all(held, grounds)
    now.charge_all(draining, grounds)
    later.charge_all(held, grounds)
    for ground in grounds.values():
        ground.settle()
    return Board(
        snapshot=snapshot,
        grounds=grounds,
        queues={queue.name: queue for queue in snapshot.queues},
        windows={hours.window.name: hours for hours in snapshot.windows},
        now=now,
        later=later,
        depths=reach_depths(snapshot.levels, snapshot.rules),
        sittings=sittings,
        leases=leases,
        purses={tenant.name: tenant.purse for tenant in snapshot.tenants if tenant.purse is not None},
        reserved=_reserved(snapshot.running),
    )


def _expect(lease: Lease, ground: Ground, now_s: float) -> None:
    """Devices of a lease come back."""
    until_s = now_s if lease.until_s is None else max(lease.until_s, now_s)
    for name, count in lease.nodes:
        at = ground.index.get(name)
        if at is not None:
            ground.drain(at, count, until_s)


def _seat(lease: Lease, ground: Ground, sitting: Sitting | None) -> None:
    """A job sits where its lease is; what stood on a vanished node is no seat."""
    if sitting is None:
        return
    seats = sitting.seats.setdefault(lease.pool, {})
    for name, count in lease.nodes:
        at = ground.index.get(name)
        if at is not None:
            seats[at] = seats.get(at, 0) + count
    sitting.before[lease.pool] = dict(seats)


def _reserved(running: Iterable[Running]) -> dict[str, Purse]:
    """What is set aside in each tenant's purse."""
    reserved: dict[str, Purse] = {}
    for one in running:
        if one.reserved is not NOTHING:
            reserved[one.job.tenant] = plus(reserved.get(one.job.tenant, Purse()), one.reserved)
    return reserved
