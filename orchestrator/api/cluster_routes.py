"""/api/v1/queues, pools, leases, usage and cluster: what there is, who holds it, and what it was good for."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from orchestrator.api import documents, models, render
from orchestrator.api.differences import live_changes, must_drain
from orchestrator.api.openapi import document_body
from orchestrator.api.paging import after_number_of, page_of
from orchestrator.api.parts import Cursor, Limit, NameFilter, TheCaller, TheService, known_names
from orchestrator.api.problem_answers import responses
from orchestrator.api.service import Service
from orchestrator.ledger.errors import ConflictError, LedgerError
from orchestrator.ledger.job_reads import JobFilter
from orchestrator.ledger.keys import Role
from orchestrator.ledger.reading import TenantUsage
from orchestrator.ledger.states import ENDED, HOLDING, JobState, Unit
from orchestrator.policy.queueing.from_spec import queues_of
from orchestrator.policy.queueing.values import LeaseState
from orchestrator.spec import Cluster
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.names import NAME_PATTERN

router = APIRouter(prefix="/api/v1", tags=["cluster"])
_LIVE = tuple(state for state in JobState if state not in ENDED)
_USED_FOR = ("useful", "stalled", "lost", "draining", "idle", "open", "held")
_MOST_RUNNING = 200
QueueName = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.get("/queues", response_model=models.QueueList, responses=responses())
async def list_queues(service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Queues with their quotas, and what waits in them by reason. Counts are of the jobs that the caller may see."""
    found = await service.reading(service.read.cluster)
    return {"items": [] if found is None else await service.reading(_queues, service, found[1], caller.only_tenant)}


def _queues(service: Service, cluster: Cluster, tenant: str | None) -> list[dict[str, Any]]:
    held, holds = _held(service), service.read.holds()
    counts, decided = service.read.queue_counts(tenant), service.reasons.counts(tenant)
    return [
        {
            "name": queue.name,
            "on_hold": queue.name in holds,
            "weight": queue.weight,
            "cohort": queue.cohort,
            "tenants": sorted(queue.tenants),
            "quotas": [
                {
                    "pool": one.pool,
                    "nominal": one.nominal,
                    "borrow": one.borrow,
                    "lend": one.lend,
                    "held": held.get((queue.name, one.pool), 0),
                }
                for one in queue.quotas
            ],
            **_jobs_of(queue.name, counts, decided),
        }
        for queue in queues_of(cluster)
    ]


def _held(service: Service) -> dict[tuple[str | None, str], int]:
    found: dict[tuple[str | None, str], int] = {}
    for lease in service.read.leases():
        found[lease.queue, lease.pool] = found.get((lease.queue, lease.pool), 0) + lease.devices
    return found


def _jobs_of(
    queue: str, counts: dict[tuple[str, str, str | None], int], decided: Counter[tuple[str, str]] | None
) -> dict[str, Any]:
    mine = {(state, reason): count for (of, state, reason), count in counts.items() if of == queue}
    running = sum(count for (state, _), count in mine.items() if state in HOLDING or state == JobState.DRAINING)
    reasons: Counter[str] = Counter()
    for (_, reason), count in mine.items():
        if reason is not None:
            reasons[reason] += count
    if decided is not None:
        # What is written of thousands follows some cycles behind.
        reasons = Counter({reason: count for (of, reason), count in decided.items() if of == queue})
    return {"waiting": sum(mine.values()) - running, "running": running, "reasons": dict(sorted(reasons.items()))}


@router.post("/queues/{queue}/hold", response_model=models.QueueList, responses=responses(404, 409))
async def hold_queue(queue: QueueName, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Start nothing more from a queue, restarts of failed attempts included; what runs goes on with what it has."""
    return await _hold(service, caller, queue, True)


@router.post("/queues/{queue}/release", response_model=models.QueueList, responses=responses(404, 409))
async def release_queue(queue: QueueName, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Let a queue start jobs again."""
    return await _hold(service, caller, queue, False)


async def _hold(service: Service, caller: TheCaller, queue: str, on_hold: bool) -> dict[str, Any]:
    caller.need(Role.ADMIN)
    await service.writer.do(lambda: service.ledger.hold_queue(queue, on_hold, actor=caller.actor))
    cluster = (await service.applied()).cluster
    every = await service.reading(_queues, service, cluster, None)
    return {"items": [one for one in every if one["name"] == queue]}


@router.get("/pools", response_model=models.PoolList, responses=responses())
async def list_pools(service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Pools with their nodes, as the last cycle of this server saw them."""
    return {"items": await service.reading(_pools, service)}


def _pools(service: Service) -> list[dict[str, Any]]:
    found = service.read.cluster()
    seen = {pool.name: pool for pool in service.watched.pools or ()}
    meters = {meter.pool: meter for meter in service.read.meters()}
    draining: dict[str, int] = {}
    for lease in service.read.leases():
        if lease.state is LeaseState.DRAINING:
            draining[lease.pool] = draining.get(lease.pool, 0) + lease.devices
    items = []
    for spec in found[1].spec.pools if found else ():
        pool, meter = seen.get(spec.name), meters.get(spec.name)
        nodes = [
            {
                "name": node.name,
                "devices": node.devices,
                "state": node.state.value,
                "leaves_at": None if node.leaves_at_s is None else render.instant(node.leaves_at_s),
            }
            for node in (pool.nodes if pool else ())
        ]
        items.append(
            {
                "name": spec.name,
                "resource": spec.resource,
                "device": spec.device,
                "market": spec.market,
                "usd_per_device_hour": f"{spec.price:f}",
                "observed": meter.observed if meter else 0,
                "leased": meter.leased if meter else 0,
                "draining": draining.get(spec.name, 0),
                "headroom": pool.headroom if pool else 0,
                "most": spec.count,
                "in_sight": pool.in_sight if pool else None,
                "asked": pool.asked if pool else 0,
                "asked_why": pool.asked_why or None if pool else None,
                "nodes": nodes,
            }
        )
    return items


@router.get("/leases", response_model=models.LeaseList, responses=responses(404))
async def list_leases(
    service: TheService,
    caller: TheCaller,
    pool: NameFilter = None,
    tenant: NameFilter = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Who holds what now, oldest leases first, page by page."""
    if tenant is not None:
        caller.need_tenant(tenant)
    only = tenant or caller.only_tenant
    after = after_number_of(cursor)
    rows = await service.reading(service.read.leases, pool=pool, tenant=only, after=after, limit=limit + 1)
    if not rows:
        await known_names(service, pool=pool, tenant=tenant)
    shown, following = page_of(rows, limit, lambda row: str(row.id))
    return {"items": [render.lease(row) for row in shown], "next_cursor": following}


@router.get("/usage", response_model=models.Usage, responses=responses())
async def get_usage(service: TheService, caller: TheCaller) -> dict[str, Any]:
    """What devices were paid for and what that was good for, and what each tenant was booked for."""
    return await service.reading(_usage, service, caller.only_tenant)


def _usage(service: Service, only: str | None) -> dict[str, Any]:
    balances = {unit: service.read.balances(unit) for unit in Unit}
    pools: dict[str, dict[str, float]] = {}
    for account, amount in balances[Unit.DEVICE_MS].items():
        kind, _, pool = account.partition(":")
        if kind == "paid" or kind in _USED_FOR:
            pools.setdefault(pool, {})[kind] = abs(amount) / 1000
    known = {one.tenant: one for one in service.read.tenant_usage()}
    granted = {name.partition(":")[2] for found in balances.values() for name in found if name.startswith("purse:")}
    tenants = [
        _tenant_use(name, known.get(name), balances) for name in sorted(known.keys() | granted) if only in (None, name)
    ]
    return {
        "pools": dict(sorted(pools.items())) if only is None else {},
        "tenants": tenants,
        "running": _running(service, only),
        "running_left_off": max(0, _holding(service, only) - _MOST_RUNNING),
    }


def _tenant_use(name: str, used: TenantUsage | None, balances: dict[Unit, dict[str, int]]) -> dict[str, Any]:
    def of(kind: str) -> dict[str, int]:
        return {unit.value: found.get(f"{kind}:{name}", 0) for unit, found in balances.items() if mine in found}

    mine = f"purse:{name}"
    steps = balances[Unit.MICRO_USD].get(f"steps:{name}", 0)
    return {
        "tenant": name,
        "jobs": used.jobs if used else 0,
        "spent_usd": render.usd(used.micro_usd if used else 0),
        "device_hours": used.device_ms / 3_600_000 if used else 0.0,
        "granted_left": of("purse"),
        "granted_set_aside": of("reserved"),
        "granted_spent": of("spent"),
        "granted_steps_usd": render.usd(steps) if mine in balances[Unit.ITERATIONS] else None,
    }


def _holding(service: Service, only: str | None) -> int:
    return sum(count for (_, state, _), count in service.read.queue_counts(only).items() if state in HOLDING)


def _running(service: Service, only: str | None) -> list[dict[str, Any]]:
    """Jobs that hold devices on pools that say more than a price."""
    rows = service.read.jobs(JobFilter(tenant=only, states=tuple(HOLDING), limit=_MOST_RUNNING))
    found = [(row, render.footprint(service.footprint(row.id))) for row in rows]
    return [
        {"job": row.id, "kind": row.shape.kind, "tenant": row.tenant, **used} for row, used in found if used is not None
    ]


@router.get("/cluster", response_model=models.AppliedCluster, responses=responses(404))
async def get_cluster(service: TheService, caller: TheCaller) -> dict[str, Any]:
    """The Cluster that holds."""
    caller.need(Role.ADMIN)
    found = await service.reading(service.read.cluster)
    if found is None:
        raise LedgerError("no Cluster was applied yet", code=ExitCode.UNKNOWN, next_step="Run 'tide apply FILE'")
    return {"generation": found[0], "document": found[1].to_document()}


@router.put(
    "/cluster",
    response_model=models.ClusterDifference,
    responses=responses(409, 413, 415),
    openapi_extra=document_body("Cluster"),
)
async def put_cluster(
    request: Request,
    service: TheService,
    caller: TheCaller,
    dry_run: Annotated[bool, Query(description="Only say what would change.")] = False,
) -> dict[str, Any]:
    """Make a Cluster the one that holds. 409 when something that it takes away is in use: that drains first."""
    caller.need(Role.ADMIN)
    cluster = await documents.read_one(request, Cluster, now=service.now())
    service.check_cluster(cluster)
    before, live, drains = await service.reading(_difference, service, cluster)
    generation = before
    if not dry_run:
        if drains:
            step = "Hold the queues ('tide queue hold'), pause or cancel these jobs, and apply again once they are gone"
            raise ConflictError("in use: " + "; ".join(drains), next_step=step)
        generation = await service.writer.do(lambda: service.ledger.apply(cluster, actor=caller.actor))
        service.forget_cluster()
    return {"generation": generation, "applied": not dry_run, "live": live, "drains": drains}


def _difference(service: Service, cluster: Cluster) -> tuple[int, list[str], list[str]]:
    found = service.read.cluster()
    before = None if found is None else found[1]
    jobs = service.read.jobs(JobFilter(states=_LIVE, limit=1_000_000))
    drains = must_drain(before, cluster, jobs, service.read.leases())
    return 0 if found is None else found[0], live_changes(before, cluster), drains
