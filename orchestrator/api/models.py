"""What the API answers, as pydantic models: times as ISO 8601 in UTC, money as decimal strings, counts as integers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.ledger.keys import Role
from orchestrator.ledger.states import Cause, JobState, Outcome
from orchestrator.policy.node_health import HoldCause
from orchestrator.policy.queueing.decisions import StartReason, WaitReason
from orchestrator.policy.queueing.values import LeaseState
from orchestrator.spec.names import NAME_PATTERN

JOB_PATTERN = NAME_PATTERN[:-1] + r"(\.[1-9][0-9]{0,8})?$"


class Model(BaseModel):
    """Closed: a key that is not here is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Workers(Model):
    """How many a job asks for, has now, and is pinned to."""

    min: int
    max: int
    now: int
    pinned: int | None


class Job(Model):
    """One run. `reason`, `detail`, `eta`: why it waits, or how it ended."""

    id: str
    name: str
    run: int
    tenant: str
    queue: str
    priority: int
    state: JobState
    reason: WaitReason | None
    detail: str
    eta: str | None
    workers: Workers
    submitted_at: str
    submitted_by: str
    changed_at: str
    started_at: str | None
    ended_at: str | None
    deadline: str | None
    attempt: int
    steps_done: int
    steps: int | None
    failures: int
    preemptions: int
    resizes: int
    spent_usd: str
    device_hours: float


class JobList(Model):
    """A page of jobs, in order of id."""

    items: list[Job]
    next_cursor: str | None


class Attempt(Model):
    """One start of a job's workers, with what its device-time was good for, in device-seconds."""

    attempt: int
    cause: Cause
    world_size: int
    ordered_at: str
    running_at: str | None
    ended_at: str | None
    outcome: Outcome | None
    detail: str
    start_step: int
    useful_s: float
    stalled_s: float
    lost_s: float
    draining_s: float
    stall_parts: dict[str, float]
    placement: list[Seat]


class Seat(Model):
    """Workers on one node."""

    pool: str
    node: str
    workers: int


class Straggler(Model):
    """A rank for which all others wait: its own work takes `ratio` times as long as the median's, over these steps."""

    rank: int
    node: str
    ratio: float
    steps: int
    since: str


class JobDetail(Job):
    """A job with its attempts, what it was booked for, the ranks that hold it up now, and the document its owner
    wrote."""

    attempts: list[Attempt]
    usage: dict[str, int]
    stragglers: list[Straggler]
    document: dict[str, Any]


class Submitted(Model):
    """An accepted job. `replayed`: its Idempotency-Key was answered before, and nothing was done now."""

    id: str
    replayed: bool


class SubmittedBatch(Model):
    """Accepted jobs, in the order in which they were sent."""

    ids: list[str]
    replayed: bool


class Schedule(Model):
    """A job that starts by a clock. `instances`: the jobs it started that had not ended at its last look."""

    name: str
    tenant: str
    cron: str
    timezone: str
    next_at: str | None
    instances: list[str]
    submitted_at: str
    submitted_by: str


class ScheduleList(Model):
    """All schedules."""

    items: list[Schedule]


class ResizeBody(Model):
    """`workers` None: follow capacity again."""

    workers: int | None = Field(ge=1, le=1_000_000)


class StacksBody(Model):
    """`rank` None: of all ranks."""

    rank: int | None = Field(default=None, ge=0, le=1_000_000)


class Stacks(Model):
    """Where ranks stand, as text, and the file in the run's folder that it was kept in; `silent` nodes said nothing."""

    job: str
    text: str
    path: str | None
    silent: list[str]


class ExecBody(Model):
    """A command and where it runs: beside that rank, the first rank of a node, else rank 0."""

    command: list[Annotated[str, Field(max_length=131_072, pattern=r"^[^\x00]*$")]] = Field(
        min_length=1, max_length=1000
    )
    rank: int | None = Field(default=None, ge=0, le=1_000_000)
    node: str | None = Field(default=None, pattern=r"^[0-9a-zA-Z._-]{1,64}$")


class Exec(Model):
    """A command that runs in a job; `output` is where it is watched, within half a minute."""

    id: str
    job: str
    rank: int
    node: str
    output: str


class ExecInput(Model):
    """Input of a command, base64; `end`: nothing follows."""

    data: str = Field(default="", max_length=400_000, pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    end: bool = False


class Done(Model):
    """It was done."""

    done: bool = True


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
    """All leases."""

    items: list[Lease]


class Event(Model):
    """Something that happened. `seq` rises; it is the id of a server-sent event, too."""

    seq: int
    at: str
    kind: str
    job: str | None
    attempt: int | None
    tenant: str | None
    actor: str
    data: dict[str, Any]


class EventList(Model):
    """A page of events, oldest first; `next_after` goes on where it ends."""

    items: list[Event]
    next_after: int


class TenantUse(Model):
    """What a tenant's jobs were booked for."""

    tenant: str
    jobs: int
    spent_usd: str
    device_hours: float
    granted_left: dict[str, int] = Field(
        description="What is left of grants, by unit: device_ms, micro_usd, iterations."
    )


class Usage(Model):
    """Device-seconds by pool and what they were good for; paid = useful + stalled + lost + draining + idle + open."""

    pools: dict[str, dict[str, float]]
    tenants: list[TenantUse]


class Change(Model):
    """An edit after which the next decision starts the job."""

    kind: str
    text: str
    values: dict[str, Any]


class Verdict(Model):
    """What is decided for one waiting job. `pool` and `missing`: who came nearest to taking it, and what it lacks."""

    job: str
    decision: Literal["start", "wait", "never"]
    reason: WaitReason | StartReason
    detail: str
    eta: str | None
    pool: str | None
    missing: int
    workers: int | None
    placement: list[Seat]


class Effect(Model):
    """What is decided for one running job."""

    job: str
    action: Literal["resize", "evict"]
    cause: str
    detail: str
    workers: int
    drain_until: str
    for_job: str | None


class Why(Model):
    """Why a job waits, or what it does; `unblock` and `what_if` only for jobs that wait."""

    job: str
    state: JobState
    detail: str
    verdict: Verdict | None
    unblock: list[Change]
    what_if: Verdict | None


class Plan(Model):
    """What the next cycle would do. `job`: the verdict on the job that was sent; it was not submitted."""

    at: str
    job: Verdict | None
    starts: list[Verdict]
    changes: list[Effect]
    waiting: dict[str, int]


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


class NewKey(Model):
    """`expires_in_s` None: it holds until it is revoked."""

    tenant: str = Field(pattern=NAME_PATTERN)
    role: Role
    note: str = Field(default="", max_length=200)
    expires_in_s: float | None = Field(default=None, gt=0, le=10**9)


class IssuedKey(Model):
    """A new key. `key` stands here and nowhere else."""

    id: str
    tenant: str
    role: Role
    key: str


class Key(Model):
    """A key without its secret."""

    id: str
    tenant: str
    role: Role
    note: str
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None


class KeyList(Model):
    """All keys."""

    items: list[Key]


class LogPage(Model):
    """A part of one attempt's log, decoded as UTF-8; `next_offset` is a position in bytes."""

    job: str
    attempt: int
    offset: int
    next_offset: int
    ended: bool
    text: str


class Health(Model):
    """This process answers."""

    status: Literal["ok"]


class Readiness(Model):
    """Whether reads are answered, and somebody decides."""

    status: Literal["ok", "not_ready"]
    reason: str
    version: str
    leading: bool
    leader: str
    cycles: int
    last_cycle_at: str | None
    last_error: str | None


class NodeHold(Model):
    """Why a node is held back, and until when; `until` None: until somebody lets it go."""

    cause: HoldCause
    since: str
    until: str | None
    detail: str
    by: str


class NodeItem(Model):
    """A node as the last cycle saw it; `state` `gone`: one that is held back and is not there any more."""

    name: str
    pool: str | None
    devices: int
    leased: int
    place: list[str]
    state: Literal["ok", "held", "leaving", "gone"]
    hold: NodeHold | None


class NodeList(Model):
    """Nodes, by pool and name."""

    items: list[NodeItem]


class NodeHoldBody(Model):
    """How long (None: until it is let go), and why."""

    for_s: float | None = Field(default=None, gt=0, le=31_536_000)
    reason: str = Field(default="", max_length=400)
