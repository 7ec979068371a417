"""Answers that hold for many jobs: what one of them waits for, all of its shape wait for, and are not asked again.

Room only shrinks while a decision is made, so an answer stays true until it is written down. This is what makes ten
thousand waiting jobs cost about as much as a few hundred.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.policy.queueing.decisions import Explanation, WaitReason, Waits
from orchestrator.policy.queueing.order import Line
from orchestrator.policy.queueing.parties import Queue
from orchestrator.policy.queueing.roll import SEATED, Roll
from orchestrator.policy.queueing.shares import Shares
from orchestrator.policy.queueing.values import Job

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


Delay = tuple[float, Explanation]
"""How long the shortest job ran that would delay a head, and what it was told."""


@dataclass(slots=True)
class KnownAnswers:
    """What was found out so far, by what jobs ask for (`Roll.bit`). `brought`: devices that tenants brought, by tenant
    and pool. `pools`: those of every queue; what is in the way of one queue's job is in the way of another's that may
    use the same pools. `_settled`: everything of a queue that is known whoever asks for it."""

    shares: Shares
    roll: Roll
    pools: dict[str, tuple[str, ...]]
    brought: dict[str, dict[str, int]] = field(default_factory=dict)
    _settled: dict[str, int] = field(default_factory=dict)
    _now: dict[str, dict[int, Explanation]] = field(default_factory=dict)
    _never: dict[str, dict[int, Explanation]] = field(default_factory=dict)
    _delays: dict[str | tuple[str, ...], dict[int, Delay]] = field(default_factory=dict)

    @classmethod
    def of(cls, shares: Shares, roll: Roll, queues: Iterable[Queue]) -> KnownAnswers:
        """Nothing known yet."""
        brought: dict[str, dict[str, int]] = {}
        for (tenant, pool), owned in shares.owned.items():
            brought.setdefault(tenant, {})[pool] = owned.contributed
        pools = {queue.name: tuple(sorted(quota.pool for quota in queue.quotas)) for queue in queues}
        return cls(shares, roll, pools, brought)

    def learn(self, job: Job, why: Explanation) -> None:
        """Keep what a job waits for, if it says something of others."""
        brought, left = self._own(job.tenant)
        bit = self.roll.bit(job)
        if why.reason in SHARED and job.min_devices > left:
            self._now.setdefault(job.queue, {})[bit] = why
        elif why.reason is WaitReason.EXCEEDS_MAX_QUOTA and job.min_devices > brought:
            self._never.setdefault(job.queue, {})[bit] = why
        elif why.reason is WaitReason.BACKFILL_RESERVATION:
            users = job.queue if why.of_quota else self.pools[job.queue]
            self._delays.setdefault(users, {})[bit] = (_length(job), why)
            return
        else:
            return
        self._settled[job.queue] = self._settled.get(job.queue, 0) | bit

    def pass_over(self, line: Line, seated: Container[str], waits: dict[str, Explanation]) -> None:
        """Go on to the next job of a line that does not wait for something known; `seated` jobs get their turn. What
        passed jobs wait for is said in `shared`, of a line whose jobs are answered singly at once, in `waits`."""
        jobs, bits = line.row.jobs, line.row.bits
        if line.at >= len(jobs) or jobs[line.at].id in seated:
            return
        if line.singly:
            self._pass_singly(line, waits)
            return
        settled, delays = self._settled.get(line.queue, 0), self._delays_of(line.queue)
        if line.row.mask & ~settled:
            # This loop looks at many. Who was given devices since the lines were made is first in its own.
            for at in range(line.at, len(jobs)):
                bit = bits[at]
                if bit & settled:
                    continue
                for known in delays:
                    found = known.get(bit)
                    if found is not None and ((work_s := jobs[at].work_s) is None or work_s >= found[0]):
                        break
                else:
                    line.at = at
                    return
        line.at = len(jobs)

    def _pass_singly(self, line: Line, waits: dict[str, Explanation]) -> None:
        now, never = self._now.get(line.queue, {}), self._never.get(line.queue, {})
        delays, (brought, left) = self._delays_of(line.queue), self._own(line.tenant)
        for at in range(line.at, len(line.row.jobs)):
            job, bit = line.row.jobs[at], line.row.bits[at]
            # A tenant's own devices may do where the queue's do not: what others wait for says nothing of it.
            why = now.get(bit) if job.min_devices > left else None
            if why is None and job.min_devices > brought:
                why = never.get(bit)
            if why is None:
                why = _delayed(delays, bit, job)
            if why is None or bit == SEATED:
                line.at = at
                return
            waits[job.id] = why
        line.at = len(line.row.jobs)

    def shared(self, excepted: Mapping[str, set[str]]) -> Iterator[Waits]:
        """What plain jobs wait for that had no answer of their own; `excepted` are those that had, by queue."""
        for (queue, bit), ids in self.roll.groups.items():
            apart = excepted.get(queue)
            left = ids if apart is None or apart.isdisjoint(ids) else [one for one in ids if one not in apart]
            if not left:
                continue
            why = self._now.get(queue, {}).get(bit) or self._never.get(queue, {}).get(bit)
            if why is not None:
                yield Waits(tuple(left), why)
            else:
                yield from self._waiting_behind_heads(queue, bit, left)

    def _waiting_behind_heads(self, queue: str, bit: int, ids: list[str]) -> Iterator[Waits]:
        delays = [known for known in self._delays_of(queue) if bit in known]
        if len(delays) == 1:
            # Everybody passed, so there is nobody for whom this is not said.
            yield Waits(tuple(ids), delays[0][bit][1])
            return
        found: dict[int, tuple[Explanation, list[str]]] = {}
        for job_id in ids:
            why = _delayed(delays, bit, self.roll.jobs[job_id])
            assert why is not None, f"{job_id} was passed over for a reason"
            found.setdefault(id(why), (why, []))[1].append(job_id)
        yield from (Waits(tuple(jobs), why) for why, jobs in found.values())

    def _delays_of(self, queue: str) -> list[dict[int, Delay]]:
        return [known for users in (self.pools[queue], queue) if (known := self._delays.get(users))]

    def _own(self, tenant: str) -> tuple[int, int]:
        """Most devices of one pool that a tenant brought, and most that it does not use yet."""
        pools = self.brought.get(tenant)
        if not pools:
            return 0, 0
        return max(pools.values()), max(self.shares.own_available(tenant, pool) for pool in pools)


def _delayed(delays: list[dict[int, Delay]], bit: int, job: Job) -> Explanation | None:
    """Who runs as long as one that would delay a head would delay it, too."""
    for known in delays:
        found = known.get(bit)
        if found is not None and (job.work_s is None or job.work_s >= found[0]):
            return found[1]
    return None


def _length(job: Job) -> float:
    return float("inf") if job.work_s is None else job.work_s
