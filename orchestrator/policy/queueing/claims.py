"""Preemption: devices asked back for the first job of a queue that does not fit, by shrinking first, then by stopping.

Victims are chosen by lost work, then age of their last checkpoint, then priority. What a claim frees is the claimer's:
nobody else is given it while it drains. A claim is all or nothing, and the fewest victims that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.deadlines import floor_workers
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.ground import Devices, Ground, Taken
from orchestrator.policy.queueing.rights import Ranking, Rights, fair_surplus, rank_sittings
from orchestrator.policy.queueing.seating import seat
from orchestrator.policy.queueing.values import Job


@dataclass(frozen=True, slots=True)
class Demand:
    """What a victim is asked for: seats to give back, by pool, and by which right."""

    victim: Sitting
    seats: tuple[tuple[str, Taken], ...]
    cause: ChangeCause
    stop: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """Devices that a job will have once `ready_s` has come; demands are empty where drains under way are enough."""

    job: Job
    pool: str
    demands: tuple[Demand, ...]
    grace_s: float
    ready_s: float


@dataclass(slots=True)
class Claims:
    """Finds claims on a board; a claim that is made is entered there."""

    board: Board
    _ranking: Ranking | None = None

    def claim(self, job: Job) -> Claim | None:
        """Devices for the largest size that a right covers, the minimum at least; None if no right gets that far."""
        for pool in self.board.candidates(job):
            if self.board.grounds[pool].pool.in_sight:
                for size in self._sizes(job, pool):
                    attempt = _Attempt(self.board, self._rank(), job, pool, size)
                    if attempt.succeeds():
                        return attempt.enter()
        return None

    def _rank(self) -> Ranking:
        if self._ranking is None:
            self._ranking = rank_sittings(self.board)
        return self._ranking

    def _sizes(self, job: Job, pool: str) -> Iterator[int]:
        """Sizes worth trying, largest first: those within rights that cover more than the minimum, and the minimum."""
        later = self.board.later
        account = later.quotas.accounts[job.queue, pool]
        mine = later.shares.member(job.tenant, job.resource)
        highest = max((one.standing for (_, resource), one in later.shares.members.items() if resource == job.resource))
        for size in reversed(job.sizes[1:]):
            need = size * job.devices_per_worker
            owned = need <= later.shares.own_available(job.tenant, pool)
            nominal = account.used + need <= account.nominal
            if owned or nominal or mine.after(need) <= highest:
                yield size
        yield job.sizes[0]


@dataclass(slots=True)
class _Attempt:
    """One try: collect demands until the job would fit, drop those it can do without, or undo everything."""

    board: Board
    ranking: Ranking
    job: Job
    pool: str
    size: int
    demands: list[Demand] = field(default_factory=list)

    @property
    def _ground(self) -> Ground:
        return self.board.grounds[self.pool]

    @property
    def _need(self) -> int:
        return self.size * self.job.devices_per_worker

    def succeeds(self) -> bool:
        if self._fits() is not None:
            # Drains under way are meant for somebody's minimum, or for what its owner has a right to.
            rights = Rights(self.board, self.ranking, self.job, self.pool, self._need)
            return self.size == self.job.sizes[0] or rights.by_recall or rights.within_nominal
        if self._collect(self._shrink) or self._collect(self._stop):
            self._drop_needless()
            return True
        for demand in list(self.demands):
            self._withdraw(demand)
        return False

    def enter(self) -> Claim:
        """Make the claim: charge the job, and keep its share of what is free or draining from everybody else."""
        taken = self._fits()
        assert taken is not None, "entered only when it fits"
        ground = self._ground
        freed_N = self._freed()
        until_s = self.board.snapshot.now_s
        for at, devices in taken:
            coming = min(devices, int(freed_N[at] + ground.draining[at]))
            drained = max(0, coming - int(freed_N[at]))
            ground.draining[at] -= drained
            ground.claimed[at] += coming
            ground.free[at] -= devices - coming
            ground.total_free -= devices - coming
            if drained:
                until_s = max([until_s, *(end for end, node, _ in ground.drains if node == at)])
        # A surplus of what victims give back is for later claims, as any drain is.
        for demand in self.demands:
            demand.victim.changed = True
        self.board.charge_both(self.job, self.pool, self._need)
        grace_s = self._grace_s()
        ready_s = max(until_s, self.board.snapshot.now_s + grace_s) if self.demands else until_s
        return Claim(self.job, self.pool, tuple(self.demands), grace_s, ready_s)

    def _grace_s(self) -> float:
        """Time the victims have: what the owner was promised if it recalls anything, else the rule for all."""
        owned = self.board.later.shares.owned.get((self.job.tenant, self.pool))
        recalls = any(demand.cause is ChangeCause.RECALL for demand in self.demands)
        rule_s = self.board.snapshot.rules.drain_grace_s
        return owned.grace_s if recalls and owned is not None else rule_s

    def _collect(self, demand_of: Callable[[Sitting], Demand | None]) -> bool:
        for victim in _in_order(self.board, self.pool):
            demand = demand_of(victim)
            if demand is not None:
                self._make(demand)
                if self._fits() is not None:
                    return True
        return False

    def _shrink(self, victim: Sitting) -> Demand | None:
        rights = Rights(self.board, self.ranking, self.job, self.pool, self._need)
        cause = rights.over(victim, stop=False)
        if cause is None:
            return None
        missing = self._need - self._coming()
        most = victim.in_pool(self.pool)
        if cause is ChangeCause.FAIR_SHARE:
            most = min(most, fair_surplus(self.board, victim, self.job, self._need), self._beside_deadline(victim))
        elif victim.job.id in self.ranking.owned:
            owned = self.board.later.shares.owned[victim.job.tenant, self.pool]
            most = min(most, owned.held - owned.contributed)
        seats = _surplus(victim, self.pool, missing, most)
        return Demand(victim, ((self.pool, seats),), cause, stop=False) if seats else None

    def _beside_deadline(self, victim: Sitting) -> int:
        """Devices a victim holds beyond what its deadline asks."""
        floor = floor_workers(victim.job, now_s=self.board.snapshot.now_s)
        return max(0, victim.devices - floor * victim.job.devices_per_worker)

    def _stop(self, victim: Sitting) -> Demand | None:
        rights = Rights(self.board, self.ranking, self.job, self.pool, self._need)
        cause = rights.over(victim, stop=True)
        if cause is None:
            return None
        everything = ((pool, tuple(sorted(nodes.items()))) for pool, nodes in sorted(victim.seats.items()) if nodes)
        return Demand(victim, tuple(everything), cause, stop=True)

    def _make(self, demand: Demand) -> None:
        _move(self.board, demand, -1)
        self.demands.append(demand)

    def _withdraw(self, demand: Demand) -> None:
        _move(self.board, demand, +1)
        self.demands.remove(demand)

    def _drop_needless(self) -> None:
        """Spare victims that turned out not to be needed, the costliest first; one that was stopped after it was
        shrunk is one victim."""
        for demand in reversed(list(self.demands)):
            if sum(one.victim is demand.victim for one in self.demands) == 1:
                self._withdraw(demand)
                if self._fits() is None:
                    self._make(demand)

    def _freed(self) -> Devices:
        freed_N = np.zeros_like(self._ground.free)
        for demand in self.demands:
            for pool, seats in demand.seats:
                if pool == self.pool:
                    for at, devices in seats:
                        freed_N[at] += devices
        return np.where(self._ground.ok, freed_N, 0)

    def _coming(self) -> int:
        ground = self._ground
        return ground.total_free + int(ground.draining.sum()) + int(self._freed().sum())

    def _fits(self) -> Taken | None:
        """Seats once everything that drains is back: enough quota, enough devices, close enough together."""
        later, ground = self.board.later, self._ground
        own = later.shares.own_available(self.job.tenant, self.pool)
        quota = max(later.quotas.accounts[self.job.queue, self.pool].available, own)
        if quota < self._need or self._coming() < self._need:
            return None
        coming_N = ground.free + ground.draining + self._freed()
        return seat(self.board, self.job, ground, coming_N, self.size)


def _in_order(board: Board, pool: str) -> list[Sitting]:
    """Possible victims in a pool, cheapest first: least lost work, newest checkpoint, lowest priority."""
    there = [one for one in board.sittings.values() if not one.changed and one.in_pool(pool)]
    return sorted(
        there,
        key=lambda one: (one.running.lost_work_s, one.running.checkpoint_age_s, one.job.priority, one.job.id),
    )


def _surplus(victim: Sitting, pool: str, missing: int, most: int) -> Taken:
    """Devices a victim gives back by running at a smaller useful size: as few as `missing` needs, `most` at most.

    Its last seats go, so that the others keep their neighbours.
    """
    per_worker, held = victim.job.devices_per_worker, victim.devices
    smaller = [held - size * per_worker for size in victim.job.sizes if size * per_worker < held]
    possible = [devices for devices in smaller if devices <= most]
    if not possible or missing <= 0:
        return ()
    enough = [devices for devices in possible if devices >= missing]
    give, seats = min(enough, default=max(possible)), []
    for at, devices in sorted(victim.seats[pool].items(), reverse=True):
        part = min(give, devices)
        if part:
            seats.append((at, part))
            give -= part
    return tuple(sorted(seats))


def _move(board: Board, demand: Demand, sign: int) -> None:
    """Take seats off a victim (-1) or give them back (+1), on the books of later and on its own."""
    victim = demand.victim
    for pool, seats in demand.seats:
        nodes = victim.seats.setdefault(pool, {})
        for at, devices in seats:
            nodes[at] = nodes.get(at, 0) + sign * devices
            if not nodes[at]:
                del nodes[at]
        total = sum(devices for _, devices in seats)
        board.later.charge(victim.job.queue, victim.job.tenant, board.grounds[pool].pool, sign * total)
