"""From what people wrote to what the queues decide with: a Cluster and its TrainJobs as snapshot values."""

from __future__ import annotations

import datetime as dt
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.parties import Contribution, Purse, Queue, Quota, Recent, Tenant
from orchestrator.policy.queueing.places import Level, Node, OpenHours, Pool
from orchestrator.policy.queueing.values import UNLIMITED, Coupling, Job, Spending
from orchestrator.policy.windows import Window
from orchestrator.spec import Cluster, Endpoint, Study, TrainJob
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from orchestrator.spec.cluster_queues import Grant
from orchestrator.spec.cluster_queues import Tenant as TenantSpec
from orchestrator.spec.cluster_rules import EVERY_DAY
from orchestrator.spec.job_parts import Budget, Resources

# A queue that may use everything: more devices than any cluster has.
_EVERYTHING = 10**12
_MS_PER_HOUR = 3_600_000
ENDPOINT_PRIORITY = 1000
"""Somebody waits for its answers: as high as a job can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a job beside its file. `spent_*`: of its own budget; `stay_s`: its shortest useful stay."""

    submitted_s: float
    work_s: float | None = None
    steps_done: int = 0
    spent_micro_usd: int = 0
    spent_device_ms: int = 0
    stay_s: float = 0.0
    unmet: tuple[str, ...] = ()
    data_staged: bool = True
    active: bool = True


def job_of(job: TrainJob, cluster: Cluster, progress: Progress) -> Job:
    """A job as the queues see it. Its sizes are those of the batch plan that are faster than every smaller one."""
    spec = job.spec
    resource, devices = _demand(spec.workers.resources, cluster)
    return Job(
        id=job.metadata.name,
        queue=spec.queue,
        tenant=job.metadata.tenant,
        priority=spec.priority,
        submitted_s=progress.submitted_s,
        sizes=_sizes(spec.batch.global_batch_size, spec.batch.micro_batch_size, spec.workers.min, spec.workers.max),
        resource=resource,
        devices_per_worker=devices,
        coupling=Coupling(spec.workers.coupling),
        window=spec.window,
        deadline_s=_deadline_s(spec.deadline, progress.submitted_s),
        work_s=progress.work_s,
        steps_left=max(0, spec.steps - progress.steps_done),
        min_slice_s=progress.stay_s,
        spending=_spending(spec.budget, progress),
        unmet=progress.unmet,
        data_staged=progress.data_staged,
        active=progress.active,
    )


def replicas_of(endpoint: Endpoint, cluster: Cluster, *, submitted_s: float) -> Job:
    """An endpoint as the queues see it: its replicas are its workers, and before it serves it goes first in its queue.

    With dedicated placement a worker is one replica of every tier.
    """
    spec = endpoint.spec
    resource, devices = _demand(spec.replicas.resources, cluster)
    parts = len(spec.tiers.present()) if spec.placement == "dedicated" else 1
    least = max(1, spec.replicas.min)
    return Job(
        id=endpoint.metadata.name,
        queue=spec.queue,
        tenant=endpoint.metadata.tenant,
        priority=ENDPOINT_PRIORITY,
        submitted_s=submitted_s,
        sizes=tuple(range(least, max(least, spec.replicas.max) + 1)),
        resource=resource,
        devices_per_worker=devices * parts,
        coupling=Coupling.LOOSE,
        serves=True,
    )


def search_of(study: Study, cluster: Cluster, progress: Progress) -> Job:
    """A study as the queues see it: an elastic job of as many workers as its trials at once may have."""
    template, concurrency = study.spec.template, study.spec.concurrency
    resource, devices = _demand(template.workers.resources, cluster)
    least, most = concurrency.min * template.workers.min, concurrency.max * template.workers.max
    return Job(
        id=study.metadata.name,
        queue=template.queue,
        tenant=study.metadata.tenant,
        priority=template.priority,
        submitted_s=progress.submitted_s,
        sizes=tuple(range(least, most + 1)),
        resource=resource,
        devices_per_worker=devices,
        coupling=Coupling.LOOSE,
        window=template.window,
        deadline_s=_deadline_s(template.deadline, progress.submitted_s),
        spending=_spending(study.spec.budget, progress),
        active=progress.active,
    )


@functools.lru_cache(maxsize=1024)
def _sizes(global_batch_size: int, micro_batch_size: int, low: int, high: int) -> tuple[int, ...]:
    # Jobs that come by the thousand mostly have the same batch.
    return BatchPlan(global_batch_size, micro_batch_size).useful_sizes(low, high)


def _demand(resources: Resources, cluster: Cluster) -> tuple[str, int]:
    """The resource by which a worker is counted, and how much of it one takes: GPUs, else own names, else cores.

    Parts are rounded up: a device that is shared is charged whole.
    """
    asked = {"GPU": resources.GPU, **dict(sorted(resources.custom.items())), "CPU": resources.CPU}
    offered = {pool.resource for pool in cluster.spec.pools}
    wanted = [name for name, amount in asked.items() if amount > 0]
    # A job that needs GPUs is not served by a pool that only counts cores.
    counted = [name for name in wanted if name in offered or name == "GPU"]
    name = (counted or wanted)[0]
    return name, math.ceil(asked[name])


def _deadline_s(deadline: float | dt.datetime | None, submitted_s: float) -> float | None:
    if isinstance(deadline, dt.datetime):
        return deadline.timestamp()
    return None if deadline is None else submitted_s + deadline


def _spending(budget: Budget | None, progress: Progress) -> Spending:
    if budget is None or (budget.usd is None and budget.device_hours is None):
        return UNLIMITED
    micro_usd, device_ms = _micro(budget.usd), _ms(budget.device_hours)
    return Spending(
        micro_usd=None if micro_usd is None else micro_usd - progress.spent_micro_usd,
        device_ms=None if device_ms is None else device_ms - progress.spent_device_ms,
    )


def queues_of(cluster: Cluster) -> tuple[Queue, ...]:
    """The queues; a cluster that names none has one called default that may use everything."""
    if not cluster.spec.queues:
        quotas = tuple(Quota(pool=pool.name, nominal=_EVERYTHING) for pool in cluster.spec.pools)
        return (Queue(name="default", quotas=quotas),)
    return tuple(
        Queue(
            name=queue.name,
            quotas=tuple(
                Quota(pool=one.pool, nominal=one.nominal, borrow=one.borrow, lend=one.lend) for one in queue.quotas
            ),
            weight=queue.weight,
            cohort=queue.cohort,
            tenants=frozenset(queue.tenants),
            min_run_s=queue.min_run,
        )
        for queue in cluster.spec.queues
    )


def tenant_of(tenant: TenantSpec, *, spent: Purse, recent: Iterable[Recent]) -> Tenant:
    """A tenant with what it brought, what it was granted less what it has spent, and what it used lately."""
    granted = granted_to(tenant.grants)
    return Tenant(
        name=tenant.name,
        weight=tenant.weight,
        contributions=tuple(
            Contribution(pool=one.pool, devices=one.devices, recall_grace_s=one.recall_grace)
            for one in tenant.contributions
        ),
        purse=None
        if granted is None
        else Purse(
            micro_usd=granted.micro_usd - spent.micro_usd,
            device_ms=granted.device_ms - spent.device_ms,
            iterations=granted.iterations - spent.iterations,
        ),
        recent=tuple(recent),
    )


def granted_to(grants: Iterable[Grant]) -> Purse | None:
    """All grants together; None without any: nothing is metered."""
    given = tuple(grants)
    if not given:
        return None
    return Purse(
        micro_usd=sum(_micro(one.usd) or 0 for one in given),
        device_ms=sum(_ms(one.device_hours) or 0 for one in given),
        iterations=sum(one.iterations or 0 for one in given),
    )


def pool_of(pool: PoolSpec, nodes: Iterable[Node], *, headroom: int = 0, in_sight: bool = True) -> Pool:
    """A pool with the nodes that were observed; each stands below the pool's own place."""
    place = tuple(pool.topology.split("/")) if pool.topology else ()
    return Pool(
        name=pool.name,
        resource=pool.resource,
        device=pool.device,
        micro_usd_per_device_hour=_micro(pool.price) or 0,
        nodes=tuple(
            Node(
                name=node.name,
                devices=node.devices,
                place=place + node.place,
                state=node.state,
                leaves_at_s=node.leaves_at_s,
            )
            for node in nodes
        ),
        headroom=headroom,
        in_sight=in_sight,
    )


def levels_of(cluster: Cluster) -> tuple[Level, ...]:
    """The levels of places, widest first."""
    return tuple(
        Level(name=level.name, bandwidth_bytes_per_s=level.bandwidth_per_s, latency_s=level.latency)
        for level in cluster.spec.levels
    )


def windows_of(cluster: Cluster) -> tuple[OpenHours, ...]:
    """The windows that jobs can name."""
    return tuple(
        OpenHours(
            window=Window(
                name=one.name,
                opens=one.start,
                closes=one.end,
                timezone=one.timezone,
                days=frozenset(EVERY_DAY.index(day) for day in one.days),
            ),
            pools=frozenset(one.pools),
            grace_s=one.grace,
        )
        for one in cluster.spec.windows
    )


def _micro(usd: Decimal | None) -> int | None:
    return None if usd is None else int((usd * 1_000_000).to_integral_value(ROUND_CEILING))


def _ms(hours: float | None) -> int | None:
    return None if hours is None else math.floor(hours * _MS_PER_HOUR)
