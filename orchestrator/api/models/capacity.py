"""What there is and who holds it: queues, pools, leases, usage, the Cluster."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from orchestrator.api.models.base import Model
from orchestrator.api.models.jobs import Footprint
from orchestrator.policy.queueing.values import LeaseState


class PoolQuota(Model):
    """A queue's devices in one pool, and what its jobs hold of it."""

    pool: str
    nominal: int
    borrow: int | None
    lend: int | None
    held: int


class Queue(Model):
    """A queue with what waits in it by reason."""

    name: str
    on_hold: bool
    weight: float
    cohort: str | None
    tenants: list[str]
    quotas: list[PoolQuota]
    waiting: int
    running: int
    reasons: dict[str, int]


class QueueList(Model):
    """All queues."""

    items: list[Queue]


class Node(Model):
    """A machine as the last cycle saw it."""

    name: str
    devices: int
    state: str
    leaves_at: str | None


class Pool(Model):
    """Interchangeable devices. `observed`: there at the last look; `in_sight` false: nobody can say now; `asked`: asked
    for and not there, `asked_why` if somebody knows."""

    name: str
    resource: str
    device: str
    market: str
    usd_per_device_hour: str
    observed: int
    leased: int
    draining: int
    headroom: int
    most: int | None
    in_sight: bool | None
    asked: int
    asked_why: str | None
    nodes: list[Node]


class PoolList(Model):
    """All pools."""

    items: list[Pool]


class Lease(Model):
    """Devices in somebody's hands."""

    id: int
    holder: str
    attempt: int
    pool: str
    devices: int
    nodes: dict[str, int]
    since: str
    until: str | None
    state: LeaseState
    queue: str | None
    tenant: str | None


class LeaseList(Model):
    """A page of leases, in order of id."""

    items: list[Lease]
    next_cursor: str | None


class TenantUse(Model):
    """What a tenant's jobs were booked for."""

    tenant: str
    jobs: int
    spent_usd: str
    device_hours: float
    granted_left: dict[str, int] = Field(
        description="What is left of grants and set aside for nobody, by unit: device_ms, micro_usd, iterations."
    )
    granted_set_aside: dict[str, int] = Field(description="What of grants is set aside for jobs that have started.")
    granted_spent: dict[str, int] = Field(
        description="What of grants is spent. Steps are, when the attempt that made them has ended."
    )
    granted_steps_usd: str | None = Field(
        description="What the granted steps that are spent were worth, at the measured cost of a step."
    )


class JobUse(Footprint):
    """What a job that holds devices has used so far."""

    job: str
    kind: str
    tenant: str


class Usage(Model):
    """Device-seconds by pool and what they were good for; paid = useful + stalled + lost + draining + idle + open."""

    pools: dict[str, dict[str, float]]
    tenants: list[TenantUse]
    running: list[JobUse]
    running_left_off: int = Field(description="Jobs that hold devices beyond those that were looked at for `running`.")


class ClusterDifference(Model):
    """How an applied Cluster differs: what changes at once, and what drains first."""

    generation: int
    applied: bool
    live: list[str]
    drains: list[str]


class AppliedCluster(Model):
    """The Cluster that holds."""

    generation: int
    document: dict[str, Any]
