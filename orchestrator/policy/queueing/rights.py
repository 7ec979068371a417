"""Whose devices may be asked back for whom. Every right raises something that no other right lowers (`potential`).

RECALL: a tenant within what it brought takes it back from whoever uses it, as soon as its grace allows. RECLAIM: a
queue within its nominal quota takes it back from queues of its cohort that borrow. PRIORITY: a higher class takes
from a lower one of its queue; a job that would borrow takes only from jobs that borrow. FAIR_SHARE: a tenant takes
from one of the same queue and class that stands above it, and only surplus: nobody is stopped for fairness.
Owned devices (within what their tenant brought) are out of reach of everybody, others also for their queue's minimum
run time, except from their owner: what is lent to be recalled within a grace is not promised to anybody for longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.values import Job


@dataclass(frozen=True, slots=True)
class Ranking:
    """Running jobs whose minimum is covered by what their tenant brought, and by their queue's nominal quota."""

    owned: frozenset[str]
    secured: frozenset[str]


def rank_sittings(board: Board) -> Ranking:
    """Cover minimums pool by pool, in order of priority, start and id, while they fit.

    The order puts newcomers last within their class, so that covering one never uncovers an older one of its class.
    A job in several pools is covered only if it is in all of them.
    """
    owned_left = {key: owned.contributed for key, owned in board.later.shares.owned.items()}
    nominal_left = {key: account.nominal for key, account in board.later.quotas.accounts.items()}
    owned: set[str] = set()
    secured: set[str] = set()
    order = sorted(board.sittings.values(), key=lambda one: (-one.job.priority, one.running.started_s, one.job.id))
    for sitting in order:
        job, shares = sitting.job, minimum_by_pool(sitting)
        for covered, left, name in ((owned, owned_left, job.tenant), (secured, nominal_left, job.queue)):
            if shares and all(left.get((name, pool), 0) >= need for pool, need in shares.items()):
                covered.add(job.id)
                for pool, need in shares.items():
                    left[name, pool] -= need
    return Ranking(frozenset(owned), frozenset(secured))


def minimum_by_pool(sitting: Sitting) -> dict[str, int]:
    """A job's minimum, split over the pools it sits in: what it holds there, largest part first, up to the minimum."""
    left, parts = sitting.job.min_devices, {}
    held = {pool: sitting.in_pool(pool) for pool in sitting.seats}
    for pool in sorted(held, key=lambda name: (-held[name], name)):
        part = min(left, held[pool])
        if part:
            parts[pool] = part
            left -= part
    return parts


@dataclass(slots=True)
class Rights:
    """What one job may ask back in one pool for a start with `need` devices."""

    board: Board
    ranking: Ranking
    job: Job
    pool: str
    need: int
    by_recall: bool = field(init=False)
    within_nominal: bool = field(init=False)

    def __post_init__(self) -> None:
        later = self.board.later
        account = later.quotas.accounts[self.job.queue, self.pool]
        self.by_recall = later.shares.own_available(self.job.tenant, self.pool) >= self.need
        self.within_nominal = account.used + self.need <= account.nominal

    def over(self, victim: Sitting, *, stop: bool) -> ChangeCause | None:
        """By which right a victim's surplus may be asked back, or with `stop` everything it holds; None by none."""
        other = victim.job
        if other.id in self.ranking.owned and not self._gives_surplus(victim, stop):
            return None
        if self.by_recall and other.tenant != self.job.tenant:
            return ChangeCause.RECALL
        if self._runs_undisturbed(victim):
            return None
        if self._reclaims_from(victim, stop):
            return ChangeCause.RECLAIM
        if other.queue != self.job.queue:
            return None
        if other.priority < self.job.priority:
            at_minimum = self.need == self.job.min_devices
            return ChangeCause.PRIORITY if at_minimum and self._may_outrank(victim, stop) else None
        return ChangeCause.FAIR_SHARE if self._is_fairer(victim, stop) else None

    def _gives_surplus(self, victim: Sitting, stop: bool) -> bool:
        """An owned job may be asked only for what its tenant holds beyond what it brought."""
        owned = self.board.later.shares.owned.get((victim.job.tenant, self.pool))
        return not stop and owned is not None and owned.held > owned.contributed

    def _runs_undisturbed(self, victim: Sitting) -> bool:
        queue = self.board.queues.get(victim.job.queue)
        return queue is not None and self.board.snapshot.now_s < victim.running.started_s + queue.min_run_s

    def _reclaims_from(self, victim: Sitting, stop: bool) -> bool:
        mine = self.board.queues[self.job.queue]
        theirs = self.board.queues.get(victim.job.queue)
        if theirs is None or theirs.name == mine.name or mine.cohort is None or theirs.cohort != mine.cohort:
            return False
        account = self.board.later.quotas.accounts.get((theirs.name, self.pool))
        borrows = account is not None and account.borrowed > 0
        return self.within_nominal and borrows and not (stop and victim.job.id in self.ranking.secured)

    def _may_outrank(self, victim: Sitting, stop: bool) -> bool:
        return self.within_nominal or not stop or victim.job.id not in self.ranking.secured

    def _is_fairer(self, victim: Sitting, stop: bool) -> bool:
        """Whether the victim's tenant would still stand at or above the job's once it had the devices."""
        if stop or victim.job.priority > self.job.priority or victim.job.tenant == self.job.tenant:
            return False
        shares, resource = self.board.later.shares, self.job.resource
        theirs, mine = (shares.member(tenant, resource) for tenant in (victim.job.tenant, self.job.tenant))
        return theirs.standing > mine.after(self.need)


def fair_surplus(board: Board, victim: Sitting, job: Job, need: int) -> int:
    """Most devices a fairness claim may take from a victim: its tenant must not come to stand below the job's."""
    shares = board.later.shares
    theirs, mine = (shares.member(tenant, job.resource) for tenant in (victim.job.tenant, job.tenant))
    floor = mine.after(need) * theirs.weight - theirs.base
    return max(0, theirs.held - max(0, -int(-floor // 1)))
