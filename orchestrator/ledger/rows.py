"""Rows as values, one class per table that the control plane keeps in memory."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from orchestrator.ledger.states import Cause, JobState, Outcome, Then, Unit
from orchestrator.policy.queueing.values import Coupling, LeaseState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobShape:
    """What a job asks for: what the queues need of its file. It never changes but for an endpoint's other file.

    `kind`: of its document. `work_s`, `deadline_s`, budgets: None = not known, none. `after`: names of jobs that must
    have succeeded. `max_preemptions` None = any number.
    """

    kind: str = "TrainJob"
    sizes: tuple[int, ...]
    resource: str = "GPU"
    devices_per_worker: int = 1
    coupling: Coupling = Coupling.TIGHT
    window: str | None = None
    deadline_s: float | None = None
    work_s: float | None = None
    steps: int | None = None
    min_slice_s: float = 0.0
    budget_micro_usd: int | None = None
    budget_device_ms: int | None = None
    after: tuple[str, ...] = ()
    max_failures: int = 3
    max_preemptions: int | None = None

    @lru_cache(maxsize=4096)  # noqa: B019 - shapes are values, few and small, and written again with every row
    def to_text(self) -> str:
        """Canonical JSON."""
        return _shape_text(self)

    @classmethod
    def from_text(cls, text: str) -> JobShape:
        """The shape that `to_text` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["sizes"], values["after"] = tuple(values["sizes"]), tuple(values["after"])
        return cls(**{**values, "coupling": Coupling(values["coupling"])})


@functools.lru_cache(maxsize=1024)
def _shape_text(shape: JobShape) -> str:
    # Jobs that come by the thousand mostly have the same shape.
    values = {one.name: getattr(shape, one.name) for one in fields(shape)}
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job. `attempt` is the number of its latest attempt, 0 before the first; `version` rises with every change.

    `then`: what it becomes once it has drained. `reason`, `detail`, `eta_ms`: why it waits, or how it ended.
    """

    id: str
    name: str
    run: int
    tenant: str
    queue: str
    priority: int
    state: JobState
    submitted_ms: int
    changed_ms: int
    submitted_by: str
    shape: JobShape
    version: int = 1
    ended_ms: int | None = None
    attempt: int = 0
    then: Then | None = None
    pinned_workers: int | None = None
    reason: str | None = None
    detail: str = ""
    eta_ms: int | None = None
    started_ms: int | None = None
    work_left_s: float | None = None
    steps_done: int = 0
    failures: int = 0
    preemptions: int = 0
    resizes: int = 0
    spent_micro_usd: int = 0
    spent_device_ms: int = 0
    reserved_micro_usd: int = 0
    reserved_device_ms: int = 0
    reserved_iterations: int = 0
    paid_in: Unit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One start of a job's workers. Device-milliseconds: the sum of `held_ms` (by pool; leases that are over) is
    useful + stalled + lost once it has ended."""

    job: str
    attempt: int
    cause: Cause
    world_size: int
    placement: str
    ordered_ms: int
    start_step: int
    sent_ms: int | None = None
    running_ms: int | None = None
    ended_ms: int | None = None
    outcome: Outcome | None = None
    detail: str = ""
    stall_parts: str = "{}"
    held_ms: tuple[tuple[str, int], ...] = ()
    useful_ms: int = 0
    stalled_ms: int = 0
    lost_ms: int = 0
    draining_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """Devices in somebody's hands since `since_ms`; `attempt` is the one whose workers sit there."""

    id: int
    holder: str
    attempt: int
    pool: str
    nodes: tuple[tuple[str, int], ...]
    since_ms: int
    state: LeaseState
    until_ms: int | None = None
    queue: str | None = None
    tenant: str | None = None

    @property
    def devices(self) -> int:
        """Devices on all its nodes."""
        return sum(devices for _, devices in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """What a pool has had since `since_ms`: devices that were there, and those of them that were leased."""

    pool: str
    resource: str
    observed: int
    leased: int
    since_ms: int
    micro_usd_per_device_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """An account's balance: the sum of its entries."""

    name: str
    unit: Unit
    balance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """An order to a runner that nobody has confirmed yet; once it is confirmed it is taken away."""

    id: str
    job: str
    attempt: int
    body: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRow:
    """A tenant's decayed use of a resource at `at_ms`, and the devices it has held since."""

    tenant: str
    resource: str
    devices: float
    held: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """A waiting job for which devices were asked back."""

    job: str
    pool: str
    workers: int
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseRow:
    """A waiting job that was promised a start."""

    job: str
    since_s: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """A job that starts by a clock. `document` is what its owner wrote, `looked_ms` the last instant up to which it was
    decided what starts, `instances` the ids of the jobs it started that had not ended then."""

    name: str
    tenant: str
    submitted_by: str
    created_ms: int
    looked_ms: int
    document: str
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TempoRow:
    """What `policy.resize` remembers of a running job, as text."""

    job: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRow:
    """One message to one address that a job has ended. `id` is told to the receiver, who may hear it twice; `body` is
    what is sent, the same at every try. `secret`: a file below the server's folder of secrets, never what it holds.

    `next_ms` None: it was delivered, or given up; `said`: what became of the last try.
    """

    id: str
    job: str
    tenant: str
    event: str
    url: str
    secret: str | None
    body: str
    created_ms: int
    tries: int = 0
    next_ms: int | None = None
    delivered_ms: int | None = None
    said: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the job's owner named the address, not the Cluster."""
        return self.id.rpartition("-")[2].startswith("j")
