"""Preemption: devices asked back for the first job of a queue that does not fit, by shrinking first, then by stopping.

What a claim frees is the claimer's: nobody else is given it while it drains. A claim is all or nothing, and asks no
victim without whom it would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.policy.queueing.attempt import Attempt, Demand
from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.ground import Taken
from orchestrator.policy.queueing.promises import Promise, consume
from orchestrator.policy.queueing.rights import Ranking, Rights, rank_sittings
from orchestrator.policy.queueing.values import Job
from orchestrator.policy.queueing.victims import Victims


@dataclass(frozen=True, slots=True)
class Claim:
    """Devices that a job will have once `ready_s` has come; demands are empty where drains under way are enough."""

    job: Job
    pool: str
    workers: int
    demands: tuple[Demand, ...]
    grace_s: float
    ready_s: float


@dataclass(slots=True)
class Claims:
    """Finds claims on a board; a claim that is made is entered there."""

    board: Board
    promises: Mapping[str, list[Promise]]
    _ranking: Ranking | None = None
    _victims: Victims | None = None
    _highest: dict[str, float] = field(default_factory=dict)

    def keep(self, job: Job, pool: str, workers: int) -> Claim | None:
        """The claim that was made before, if what it asked for is still on its way; nobody is asked anew."""
        rights = Rights(self.board, self._index()[0], job, pool, workers * job.devices_per_worker)
        attempt = Attempt(self.board, rights, workers, self.promises.get(pool, ()))
        taken = attempt.find([], claimed=True)
        return None if taken is None else self._enter(attempt, taken)

    def claim(self, job: Job, pools: tuple[str, ...]) -> Claim | None:
        """Devices for the largest size that a right covers, the minimum at least; None if no right gets that far."""
        ranking, victims = self._index()
        for pool in pools:
            if not self.board.grounds[pool].pool.in_sight:
                continue
            for size in self._sizes(job, pool):
                rights = Rights(self.board, ranking, job, pool, size * job.devices_per_worker)
                attempt = Attempt(self.board, rights, size, self.promises.get(pool, ()))
                candidates = victims.of(job, pool, recalls=rights.by_recall, reclaims=self._may_reclaim(rights))
                taken = attempt.find(candidates)
                if taken is not None:
                    return self._enter(attempt, taken)
        return None

    def _index(self) -> tuple[Ranking, Victims]:
        if self._ranking is None or self._victims is None:
            self._ranking, self._victims = rank_sittings(self.board), Victims(self.board)
        return self._ranking, self._victims

    def _may_reclaim(self, rights: Rights) -> bool:
        """A queue may come to be within nominal by what is asked back from its own lower classes."""
        return rights.within_nominal or rights.secured

    def _sizes(self, job: Job, pool: str) -> Iterator[int]:
        """Sizes worth trying, largest first: those within rights that cover more than the minimum, and the minimum."""
        later = self.board.later
        account, mine = later.quotas.accounts[job.queue, pool], later.shares.member(job.tenant, job.resource)
        own = later.shares.own_available(job.tenant, pool)
        highest = self._highest_standing(job.resource)
        for size in reversed(job.sizes[1:]):
            need = size * job.devices_per_worker
            if need <= own or account.used + need <= account.nominal or mine.after(need) < highest:
                yield size
        yield job.sizes[0]

    def _highest_standing(self, resource: str) -> float:
        """The highest standing when this was first asked; claims only bring it down."""
        if resource not in self._highest:
            members = self.board.later.shares.members.items()
            standings = (one.standing for (_, name), one in members if name == resource)
            self._highest[resource] = max(standings, default=0.0)
        return self._highest[resource]

    def _enter(self, attempt: Attempt, taken: Taken) -> Claim:
        """Charge the job, and keep its share of what is free or comes back from everybody else."""
        board, rights, ground = self.board, attempt.rights, attempt.ground
        now_s, ready_s = board.snapshot.now_s, board.snapshot.now_s
        for at, devices in taken:
            coming = min(devices, int(attempt.freed[at] + ground.draining[at]))
            drained = max(0, coming - int(attempt.freed[at]))
            ground.claim(at, coming=coming, drained=drained, free=devices - coming)
            if drained:
                ready_s = max(ready_s, ground.drained_by_s(at))
        draw = board.account(rights.job.queue, rights.pool).draw(rights.need)
        consume(attempt.promises, board, rights.job, attempt.end_s, taken, draw, attempt.freed_by())
        for demand in attempt.demands:
            demand.victim.changed = True
        grace_s = self._grace_s(attempt)
        board.charge_both(rights.job, rights.pool, rights.need)
        ready_s = max(ready_s, now_s + grace_s) if attempt.demands else ready_s
        return Claim(rights.job, rights.pool, attempt.size, tuple(attempt.demands), grace_s, ready_s)

    def _grace_s(self, attempt: Attempt) -> float:
        """Time the victims have: what the owner was promised if it recalls anything, else the rule for all."""
        owned = self.board.later.shares.owned.get((attempt.rights.job.tenant, attempt.rights.pool))
        recalls = any(demand.cause is ChangeCause.RECALL for demand in attempt.demands)
        rule_s = self.board.snapshot.rules.drain_grace_s
        return owned.grace_s if recalls and owned is not None else rule_s
