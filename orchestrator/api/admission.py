"""What is refused at once: names that are not there, what a tenant may not do, and what can never run as written.

Never is what the control cycle would say of the job on an empty cluster with all devices that there could be: the same
decision, asked for one job. Jobs of one shape are asked about once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from orchestrator.api.promises import SHORTEST_STEP_S, Fastest, check_budget, check_deadline
from orchestrator.cycle import decide
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.experience import Experience
from orchestrator.ledger.facts import ClusterFacts
from orchestrator.ledger.rows import JobShape
from orchestrator.ledger.submission import NewJob
from orchestrator.policy.queueing.decisions import Admit, Explanation, WaitReason
from orchestrator.policy.queueing.from_spec import tenant_of
from orchestrator.policy.queueing.parties import Purse
from orchestrator.policy.queueing.places import Pool, flat_pool
from orchestrator.policy.queueing.values import Job, Snapshot
from orchestrator.policy.windows import Window
from orchestrator.spec import Cluster
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.fields import did_you_mean

_UNBOUNDED = 10**7
"""Devices of a pool of which nobody says how many there could be."""
_REMEMBERED = 2048
_NEVER = frozenset(
    {
        WaitReason.NO_MATCHING_POOL,
        WaitReason.EXCEEDS_MAX_QUOTA,
        WaitReason.GANG_INCOMPLETE,
        WaitReason.TOPOLOGY_PLACEMENT_FAILED,
        WaitReason.WAITING_FOR_QUOTA,
    }
)
"""Reasons that hold on an empty, full-grown cluster, and therefore always."""


@dataclass(slots=True)
class Admission:
    """Checks against one Cluster. `seen`: the pools as they were observed last, for those that cannot grow."""

    cluster: Cluster
    facts: ClusterFacts
    seen: tuple[Pool, ...] = ()
    _verdicts: OrderedDict[tuple[object, ...], LedgerError | None] = field(default_factory=OrderedDict)
    _most: OrderedDict[tuple[object, ...], int] = field(default_factory=OrderedDict)
    metered: frozenset[str] = field(init=False)
    """Tenants whose grants pay for their jobs."""

    def __post_init__(self) -> None:
        self.metered = frozenset(one.name for one in self.facts.tenants if one.grants)

    def check(self, job: NewJob, *, now_s: float, known: Experience | None = None) -> None:
        """Raises: LedgerError (unknown, forbidden, never). `known`: what steps of the same work cost before."""
        self._names(job)
        key = (job.queue, job.tenant, _facet(job.shape))
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
        else:
            self._verdicts[key] = self._never(job)
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)
        found = self._verdicts[key]
        if found is not None:
            raise LedgerError(found.problem, code=found.code, where=f"job {job.name}", next_step=found.next_step)
        check_budget(job, _value(job), self._prices(job.shape), known)
        if job.shape.deadline_s is not None and job.shape.steps is not None:
            check_deadline(job, self._fastest(job, known), now_s=now_s, window=self._window(job))

    def _names(self, job: NewJob) -> None:
        where = f"job {job.name}"
        tenants = [one.name for one in self.facts.tenants]
        if tenants and job.tenant not in tenants:
            raise unknown_name("tenant", job.tenant, tenants, f"{where}: metadata.tenant")
        queues = {one.name: one for one in self.facts.queues}
        queue = queues.get(job.queue)
        if queue is None:
            raise unknown_name("queue", job.queue, list(queues), f"{where}: spec.queue")
        if queue.tenants and job.tenant not in queue.tenants:
            problem = f"tenant {job.tenant!r} may not submit to queue {job.queue!r}; {_listed(queue.tenants)} may"
            raise LedgerError(problem, code=ExitCode.FORBIDDEN, where=where, next_step="Name another queue")
        windows = [one.window.name for one in self.facts.windows]
        if job.shape.window is not None and job.shape.window not in windows:
            raise unknown_name("window", job.shape.window, windows, f"{where}: spec.window")

    def _never(self, job: NewJob) -> LedgerError | None:
        value = _value(job)
        why = self._alone(value)
        if why is None:
            return None
        if why.reason in (WaitReason.BUDGET_EXHAUSTED, WaitReason.BUDGET_RESERVED):
            step = "Ask a sponsor for a grant, or ask for less"
            return LedgerError(why.detail, code=ExitCode.FORBIDDEN, next_step=step)
        if why.reason not in _NEVER:
            return None
        largest = self._largest(value)
        least = "replicas.min" if value.serves else "workers.min"
        workers = f"spec.{least}: {value.sizes[0]} can never start: {why.detail}"
        if largest:
            step = f"The largest that could is {largest}: set {least} to {largest} or less"
        else:
            step = "Name another queue, or ask for another resource; 'tide queue ls' shows what queues have"
        return LedgerError(workers, code=ExitCode.NEVER, next_step=step)

    def _alone(self, job: Job) -> Explanation | None:
        """Why a job does not start on an empty cluster that has grown as far as it can; None if it does."""
        snapshot = Snapshot(
            now_s=0.0,
            rules=self.facts.rules,
            pools=tuple(self._grown()),
            queues=tuple(replace(one, on_hold=False) for one in self.facts.queues),
            tenants=tuple(tenant_of(one, spent=Purse(), recent=()) for one in self.facts.tenants),
            waiting=(job,),
        )
        verdict = decide(snapshot).verdict(job.id)
        return None if isinstance(verdict, Admit) else verdict.why

    def _grown(self) -> Iterable[Pool]:
        # A pool that is out of sight, or whose nodes are still starting, says nothing of how large it is.
        seen = {pool.name: pool.observed for pool in self.seen if pool.in_sight and pool.observed}
        local = self.cluster.spec.ray.address == "local"
        for pool in self.cluster.spec.pools:
            most = _UNBOUNDED if pool.count is None else pool.count
            if local and pool.capacity.source == "ray":
                # This machine does not grow.
                most = min(most, seen.get(pool.name, most))
            price = 0 if pool.price is None else int(pool.price * 1_000_000)
            yield flat_pool(
                pool.name, most, resource=pool.resource, device=pool.device, micro_usd_per_device_hour=price
            )

    def _prices(self, shape: JobShape) -> list[int]:
        """What devices of the kind that it asks for may cost."""
        pools = [pool for pool in self._grown() if pool.resource == shape.resource and pool.observed]
        return [pool.micro_usd_per_device_hour for pool in pools]

    def _fastest(self, job: NewJob, known: Experience | None) -> Fastest:
        """The least time that all its steps take, with the most workers that it could ever hold."""
        key = (job.queue, job.tenant, _facet(job.shape))
        if key not in self._most:
            value = _value(job)
            self._most[key] = next(
                size for size in reversed(value.sizes) if size == value.sizes[0] or self._alone_at(value, size)
            )
            if len(self._most) > _REMEMBERED:
                self._most.popitem(last=False)
        workers, steps = self._most[key], job.shape.steps or 0
        kinds = {pool.device for pool in self.cluster.spec.pools if pool.resource == job.shape.resource}
        measured = {pool.device for pool in self.cluster.spec.pools if known is not None and pool.name in known.pools}
        if known is None or kinds != measured:
            # On another kind of device a step may take less than it ever did.
            return Fastest(run_s=steps * SHORTEST_STEP_S, workers=workers, measured_on=None)
        return Fastest(run_s=steps * known.step_s(workers), workers=workers, measured_on=known.job)

    def _alone_at(self, job: Job, workers: int) -> bool:
        return self._alone(replace(job, sizes=(workers,))) is None

    def _window(self, job: NewJob) -> Window | None:
        """The hours that it must keep to; a schedule chooses its own begin."""
        if job.scheduled or job.shape.window is None:
            return None
        return next(one.window for one in self.facts.windows if one.window.name == job.shape.window)

    def _largest(self, job: Job) -> int:
        """The largest gang that would start, by bisection; 0 if none would."""
        low, high = 0, job.sizes[0]
        while high - low > 1:
            middle = (low + high) // 2
            if self._alone_at(job, middle):
                low = middle
            else:
                high = middle
        return low


def _facet(shape: JobShape) -> tuple[object, ...]:
    return (shape.sizes, shape.resource, shape.devices_per_worker, shape.coupling)


def _value(job: NewJob) -> Job:
    shape = job.shape
    return Job(
        id=job.name,
        queue=job.queue,
        tenant=job.tenant,
        priority=job.priority,
        submitted_s=0.0,
        sizes=shape.sizes,
        resource=shape.resource,
        devices_per_worker=shape.devices_per_worker,
        coupling=shape.coupling,
        # The least that it could ever cost: whether it can pay for all of it shows as it goes.
        work_s=0.0,
        serves=shape.kind == "Endpoint",
    )


def unknown_name(noun: str, name: str, known: list[str], where: str) -> LedgerError:
    """There is no such queue, tenant, pool or window."""
    step = did_you_mean(name, tuple(known)) or "'tide queue ls' lists what the cluster has"
    return LedgerError(
        f"there is no {noun} {name!r}; there are {_listed(known)}", code=ExitCode.UNKNOWN, where=where, next_step=step
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
