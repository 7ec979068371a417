"""Whose devices may be asked back for whom. Every right raises something that no other right lowers (`potential`).

RECALL: a tenant within what it brought takes it back from whoever uses it, as soon as its grace allows. RECLAIM: a
queue within its nominal quota takes it back from queues of its cohort that borrow. PRIORITY: a higher class takes
from a lower one of its queue; a job that would borrow takes only from jobs that borrow. FAIR_SHARE: a tenant takes
from one of the same queue and class that stands above it, and only surplus: nobody is stopped for fairness.
Owned devices (within what their tenant brought) are out of reach of everybody, others also for their queue's minimum
run time, except from their owner: what is lent to be recalled within a grace is not promised to anybody for longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.values import Job


@dataclass(frozen=True, slots=True)
class Ranking:
    """Running jobs whose minimum is covered by what their tenant brought, and by their queue's nominal quota.

    `covered` says of (queue, pool) how many devices of nominal each class covers: (priority, devices) pairs.
    """

    owned: frozenset[str]
    secured: frozenset[str]
    covered: Mapping[tuple[str, str], tuple[tuple[int, int], ...]]

    def covered_from(self, queue: str, pool: str, priority: int) -> int:
        """Devices of a queue's nominal quota that cover jobs of this class and higher ones."""
        return sum(devices for level, devices in self.covered.get((queue, pool), ()) if level >= priority)


def rank_sittings(board: Board) -> Ranking:
    """Cover minimums pool by pool, in order of priority, start and id, while they fit.

    The order puts newcomers last within their class, so that covering one never uncovers an older one of its class.
    A job in several pools is covered only if it is in all of them.
    """
    owned_left = {key: owned.contributed for key, owned in board.later.shares.owned.items()}
    nominal_left = {key: account.nominal for key, account in board.later.quotas.accounts.items()}
    owned: set[str] = set()
    secured: set[str] = set()
    covered: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for sitting in sorted(board.sittings.values(), key=_rank):
        job, parts = sitting.running.job, minimum_by_pool(sitting)
        if _cover(owned_left, job.tenant, parts):
            owned.add(job.id)
        if _cover(nominal_left, job.queue, parts):
            secured.add(job.id)
            for pool, need in parts.items():
                covered.setdefault((job.queue, pool), []).append((job.priority, need))
    return Ranking(frozenset(owned), frozenset(secured), {key: tuple(found) for key, found in covered.items()})


def _rank(sitting: Sitting) -> tuple[int, float, str]:
    running = sitting.running
    return -running.job.priority, running.started_s, running.job.id


def _cover(left: dict[tuple[str, str], int], name: str, parts: Mapping[str, int]) -> bool:
    if not parts or not left:
        return False
    for pool, need in parts.items():
        if left.get((name, pool), 0) < need:
            return False
    for pool, need in parts.items():
        left[name, pool] -= need
    return True


def minimum_by_pool(sitting: Sitting) -> dict[str, int]:
    """A job's minimum, split over the pools it sits in: what it holds there, largest part first, up to the minimum."""
    left, parts = sitting.running.job.min_devices, {}
    if len(sitting.seats) == 1:
        ((pool, nodes),) = sitting.seats.items()
        part = min(left, sum(nodes.values()))
        return {pool: part} if part else {}
    held = {pool: sitting.in_pool(pool) for pool in sitting.seats}
    for pool in sorted(held, key=lambda name: (-held[name], name)):
        part = min(left, held[pool])
        if part:
            parts[pool] = part
            left -= part
    return parts


@dataclass(slots=True)
class Rights:
    """What one job may ask back in one pool for a start with `need` devices; victims are running jobs there."""

    board: Board
    ranking: Ranking
    job: Job
    pool: str
    need: int
    by_recall: bool = field(init=False)
    secured: bool = field(init=False)

    def __post_init__(self) -> None:
        job, pool = self.job, self.pool
        nominal = self.board.later.quotas.accounts[job.queue, pool].nominal
        self.by_recall = self.board.later.shares.own_available(job.tenant, pool) >= self.need
        # Its minimum would be covered by nominal, behind those that rank before it.
        self.secured = self.ranking.covered_from(job.queue, pool, job.priority) + job.min_devices <= nominal

    @property
    def within_nominal(self) -> bool:
        """Whether its queue would use no more than its own, given what has been asked back so far."""
        account = self.board.later.quotas.accounts[self.job.queue, self.pool]
        return account.used + self.need <= account.nominal

    def over(self, victim: Sitting, *, stop: bool) -> ChangeCause | None:
        """By which right a victim's surplus may be asked back, or with `stop` everything it holds; None by none.

        The victim is one of those that `Victims.of` names: outside its minimum run time, but for recalls.
        """
        other = victim.running.job
        if other.id in self.ranking.owned and (stop or not self.owner_surplus(victim)):
            return None
        if self.by_recall:
            return ChangeCause.RECALL if other.tenant != self.job.tenant else None
        if other.queue != self.job.queue:
            return ChangeCause.RECLAIM if self._reclaims_from(victim, stop) else None
        if other.priority < self.job.priority:
            return ChangeCause.PRIORITY if self._may_outrank(victim, stop) else None
        return ChangeCause.FAIR_SHARE if not stop and self._is_fairer(victim) else None

    def owner_surplus(self, victim: Sitting) -> int:
        """Devices that the owner of an owned job holds beyond what it brought."""
        owned = self.board.later.shares.owned.get((victim.job.tenant, self.pool))
        return 0 if owned is None else max(0, owned.held - owned.contributed)

    def _reclaims_from(self, victim: Sitting, stop: bool) -> bool:
        account = self.board.later.quotas.accounts.get((victim.job.queue, self.pool))
        borrows = account is not None and account.borrowed > 0
        return borrows and self.within_nominal and not (stop and victim.job.id in self.ranking.secured)

    def _may_outrank(self, victim: Sitting, stop: bool) -> bool:
        """Only a minimum is taken from a lower class, and covered jobs give way only to one that will be covered."""
        displaces = not stop or self.secured or victim.job.id not in self.ranking.secured
        return displaces and self.need == self.job.min_devices

    def _is_fairer(self, victim: Sitting) -> bool:
        """Whether the victim's tenant stands above where the job's would stand once it had the devices."""
        if victim.job.priority > self.job.priority or victim.job.tenant == self.job.tenant:
            return False
        shares, resource = self.board.later.shares, self.job.resource
        theirs, mine = (shares.member(tenant, resource) for tenant in (victim.job.tenant, self.job.tenant))
        return theirs.standing > mine.after(self.need)


def fair_surplus(board: Board, victim: Sitting, job: Job, need: int) -> int:
    """Most devices a fairness claim may take from a victim: its tenant must not come to stand below the job's."""
    shares = board.later.shares
    theirs, mine = (shares.member(tenant, job.resource) for tenant in (victim.job.tenant, job.tenant))
    least = math.ceil(mine.after(need) * theirs.weight - theirs.base)
    return max(0, theirs.held - max(0, least))
