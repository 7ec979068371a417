"""Jobs, their attempts, schedules, and what is sent to change them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.api.models.base import Model
from orchestrator.ledger.states import Cause, JobState, Outcome
from orchestrator.policy.queueing.decisions import WaitReason


class Workers(Model):
    """How many a job asks for, has now, and is pinned to."""

    min: int
    max: int
    now: int
    pinned: int | None


class Progress(Model):
    """What a running attempt said at `heard_at`: its speed, and when it will be done if it goes on like that."""

    heard_at: str
    steps_per_s: float | None
    finish_at: str | None


class Job(Model):
    """One run. `reason`, `detail`, `eta`: why it waits, or how it ended; `reason_at`: when that was decided, null where
    this server does not decide: what another one wrote may be some cycles old. `progress`: of one that runs, while
    its server leads."""

    id: str
    name: str
    kind: str
    run: int
    tenant: str
    queue: str
    priority: int
    state: JobState
    reason: WaitReason | None
    detail: str
    reason_at: str | None
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
    progress: Progress | None
    failures: int
    preemptions: int
    resizes: int
    spent_usd: str
    device_hours: float


class JobList(Model):
    """A page of jobs, in order of id."""

    items: list[Job]
    next_cursor: str | None


class Seat(Model):
    """Workers on one node."""

    pool: str
    node: str
    workers: int


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


class Notice(Model):
    """Somebody who is told of a job's end. `id` goes with the message; `next_try_at` None: told, or given up."""

    id: str
    event: str
    host: str
    state: Literal["waiting", "delivered", "given_up"]
    tries: int
    next_try_at: str | None
    delivered_at: str | None
    said: str


class LendingNow(Model):
    """What an endpoint lends, in replicas, and what was decided last. `recall_lead_s`: how long ahead devices are
    called back; `recall_lead_detail`: why that is longer than it was meant to be, empty where it is not."""

    lent: int
    returning: int
    demand_rps: float | None
    reason: str
    detail: str
    recall_lead_s: float | None = None
    recall_lead_detail: str = ""


class RolloutNow(Model):
    """How far the last change of an endpoint has come, for people in `detail`."""

    state: Literal["rolling", "waiting", "done", "refused"]
    detail: str


class CanaryNow(Model):
    """A version on trial, with its share of requests; `taken_back`: why it gets none any more."""

    model: str
    weight: float
    taken_back: str | None


class ServingNow(Model):
    """How an endpoint stands: its address by tier, the version and the replicas that answer. `rollout`: None = its file
    has not changed since it was started. `lending`: None = none of its devices may be lent."""

    urls: dict[str, str]
    model: str
    answering: int
    rollout: RolloutNow | None
    canary: CanaryNow | None
    lending: LendingNow | None


class Footprint(Model):
    """What a job has used so far; null where a pool does not say. `usd` by the hour where its pools have prices so."""

    kwh: float | None
    g_co2: float | None
    usd: float | None


class Straggler(Model):
    """A rank for which all others wait: its own work takes `ratio` times as long as the median's, over these steps."""

    rank: int
    node: str
    ratio: float
    steps: int
    since: str


class SetAside(Model):
    """What of its tenant's grants is set aside for a job: device_ms, micro_usd, or iterations that were `worth` so many
    dollars; null where nobody had measured its steps."""

    unit: str
    amount: int
    worth_usd: str | None


class Booked(Model):
    """What a job was booked for by leases and attempts that are over. Device-seconds: `held` by leases in all without
    draining, which is parted into useful, stalled and lost once their attempt has ended. `granted_spent`: what its
    tenant's grants paid of it, by unit: device_ms, micro_usd, iterations."""

    held_device_s: float
    useful_device_s: float
    stalled_device_s: float
    lost_device_s: float
    draining_device_s: float
    cost_usd: str
    granted_spent: dict[str, int]
    granted_steps_usd: str | None = Field(
        description="What the steps that grants paid for were worth, at the measured cost of a step."
    )


class JobDetail(Job):
    """A job with its attempts, what it was booked for, the document its owner wrote, and who is told of its end.
    `set_aside`: while it holds devices that its tenant's grants pay for; `serving`: of an endpoint; `footprint`: where
    the pools say what a device draws; `stragglers`: who holds it up."""

    footprint: Footprint | None
    set_aside: SetAside | None
    serving: ServingNow | None
    attempts: list[Attempt]
    notices: list[Notice]
    booked: Booked
    usage: dict[str, int] = Field(
        deprecated=True,
        description="Use `booked`: here device-milliseconds, micro-dollars and steps stand side by side, and are added"
        " where their accounts are of one kind.",
    )
    stragglers: list[Straggler]
    document: dict[str, Any]


class Submitted(Model):
    """An accepted job. `replayed`: its Idempotency-Key was answered before, and nothing was done now. `revised`: an
    endpoint that was there; this file holds from now on, and its replicas follow without an interruption."""

    id: str
    replayed: bool
    revised: bool


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
    """A page of schedules, by name."""

    items: list[Schedule]
    next_cursor: str | None


class ResizeBody(Model):
    """`workers` None: follow capacity again."""

    workers: int | None = Field(ge=1, le=1_000_000)
