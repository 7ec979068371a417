"""Answers that hold for many jobs: what one of them waits for, all of its shape wait for, and are not asked again.

Room only shrinks while a decision is made, so an answer stays true until it is written down. This is what makes ten
thousand waiting jobs cost about as much as a few hundred.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from orchestrator.policy.queueing.decisions import Explanation, WaitReason
from orchestrator.policy.queueing.order import SEATED, Line
from orchestrator.policy.queueing.parties import Queue
from orchestrator.policy.queueing.shares import Shares
from orchestrator.policy.queueing.values import Job, Shape

SHARED = frozenset(
    {
        WaitReason.NO_MATCHING_POOL,
        WaitReason.WAITING_FOR_QUOTA,
        WaitReason.TOPOLOGY_PLACEMENT_FAILED,
        WaitReason.SERVE_HEADROOM,
        WaitReason.GANG_INCOMPLETE,
        WaitReason.NODE_HEALTH_HOLD,
        WaitReason.PENDING_EVALUATION,
    }
)
"""Reasons that hold for every job of the same queue and shape, however long it runs."""


@dataclass(slots=True)
class KnownAnswers:
    """What was found out so far. `brought`: devices that tenants brought, by tenant and pool. `pools`: those of every
    queue; what is in the way of one queue's job is in the way of another's that may use the same pools."""

    shares: Shares
    pools: dict[str, tuple[str, ...]]
    brought: dict[str, dict[str, int]] = field(default_factory=dict)
    _now: dict[str, dict[Shape, Explanation]] = field(default_factory=dict)
    _never: dict[str, dict[Shape, Explanation]] = field(default_factory=dict)
    _delays: dict[str | tuple[str, ...], dict[Shape, tuple[float, Explanation]]] = field(default_factory=dict)

    @classmethod
    def of(cls, shares: Shares, queues: Iterable[Queue]) -> KnownAnswers:
        """Nothing known yet."""
        brought: dict[str, dict[str, int]] = {}
        for (tenant, pool), owned in shares.owned.items():
            brought.setdefault(tenant, {})[pool] = owned.contributed
        pools = {queue.name: tuple(sorted(quota.pool for quota in queue.quotas)) for queue in queues}
        return cls(shares, pools, brought)

    def learn(self, job: Job, why: Explanation) -> None:
        """Keep what a job waits for, if it says something of others."""
        brought, left = self._own(job.tenant)
        if why.reason in SHARED and job.min_devices > left:
            self._now.setdefault(job.queue, {})[job.shape] = why
        elif why.reason is WaitReason.EXCEEDS_MAX_QUOTA and job.min_devices > brought:
            self._never.setdefault(job.queue, {})[job.shape] = why
        elif why.reason is WaitReason.BACKFILL_RESERVATION:
            users = job.queue if why.of_quota else self.pools[job.queue]
            self._delays.setdefault(users, {})[job.shape] = (_length(job), why)

    def pass_over(self, line: Line, answers: list[Explanation | None], seated: Container[str]) -> None:
        """Answer the next jobs of a line as far as they wait for something known, at their places; `seated` jobs get
        their turn."""
        jobs, places, queue = line.jobs, line.places, line.jobs[0].queue
        if line.at < len(jobs) and jobs[line.at].id in seated:
            return
        now, never = self._now.get(queue, {}), self._never.get(queue, {})
        delays = [known for users in (self.pools[queue], queue) if (known := self._delays.get(users))]
        brought, left = self._own(line.tenant)
        # This loop looks at everybody who waits. Who was given devices since the lines were made is first in its own.
        for at in range(line.at, len(jobs)):
            job, place = jobs[at], places[at]
            need, shape = job.min_devices, job.shape
            # A tenant's own devices may do where the queue's do not: what others wait for says nothing of it.
            why = now.get(shape) if need > left else None
            if why is None and never and need > brought:
                why = never.get(shape)
            if why is None and delays:
                # Who runs as long as one that would delay a head would delay it, too.
                for known in delays:
                    found = known.get(shape)
                    if found is not None and (job.work_s is None or job.work_s >= found[0]):
                        why = found[1]
                        break
            if why is None or place == SEATED:
                line.at = at
                return
            answers[place] = why
        line.at = len(jobs)

    def _own(self, tenant: str) -> tuple[int, int]:
        """Most devices of one pool that a tenant brought, and most that it does not use yet."""
        pools = self.brought.get(tenant)
        if not pools:
            return 0, 0
        return max(pools.values()), max(self.shares.own_available(tenant, pool) for pool in pools)


def _length(job: Job) -> float:
    return float("inf") if job.work_s is None else job.work_s
