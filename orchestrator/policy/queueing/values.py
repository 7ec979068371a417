"""Values for what happens: jobs that wait, jobs that run, leases, and the snapshot of everything at one instant."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import TypeVar

from orchestrator.policy.lending.session import NO_ENDING, Ending
from orchestrator.policy.queueing.parties import NOTHING, Purse, Queue, Rules, Tenant
from orchestrator.policy.queueing.places import Level, OpenHours, Pool
from orchestrator.policy.resize import Outlook, ResizeState, RunPlan


class Coupling(enum.StrEnum):
    """How far apart workers may sit: one fast network, islands of it, or anywhere."""

    TIGHT = "tight"
    MODULAR = "modular"
    LOOSE = "loose"


class LeaseState(enum.StrEnum):
    """DRAINING devices are on their way back and stay charged until their holder's exit is confirmed."""

    HELD = "held"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Devices of one pool in somebody's hands, node by node; `queue` and `tenant` are charged, None = nobody's quota.

    `until_s`: when a draining lease must be over; None for held ones that have no end. `devices`: on all its nodes.
    """

    holder: str
    pool: str
    nodes: tuple[tuple[str, int], ...]
    since_s: float
    state: LeaseState = LeaseState.HELD
    until_s: float | None = None
    queue: str | None = None
    tenant: str | None = None
    devices: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", sum(devices for _, devices in self.nodes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a job may still spend of its own budget; None = no limit of its own. Integers as in `Purse`."""

    micro_usd: int | None = None
    device_ms: int | None = None


UNLIMITED = Spending()
"""A job without a budget of its own."""

Shape = tuple[int, int, int, Coupling, str | None, str]
"""Least and most workers, devices of each, coupling, window, resource."""
T = TypeVar("T")
_ID = attrgetter("id")


@lru_cache(maxsize=65_536)
def _one(value: T) -> T:
    """The same object for equal values: what thousands of jobs share is looked up faster."""
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training run as the queues see it.

    `sizes`: worker counts that are worth holding, ascending; the first is its minimum (`BatchPlan.useful_sizes`).
    `work_s`: worker-seconds still to do, None = not known. `steps_left`: optimizer steps still to do. `min_slice_s`:
    shortest stay that gets anything done; `ending`: what follows it in its window. `unmet`: jobs it waits for.
    `resource`: what one worker asks for, counted in whole devices (a part of a device is charged as one: truncating
    lost jobs elsewhere). `active` is False while its owner has paused it. `serves`: an endpoint, whose workers are
    replicas; it gives way to nobody who trains, and stays with what is left of it.
    Derived, once, because every decision asks it of everybody who waits: `min_devices`, below which it cannot run;
    `shape`, which jobs share that ask for the same; `line`: queue, class, tenant and resource; `since`: its place
    where first come is first served; `plain`: it has no window, no deadline and no budget and waits for nobody.
    """

    id: str
    queue: str
    tenant: str
    priority: int
    submitted_s: float
    sizes: tuple[int, ...]
    resource: str = "GPU"
    devices_per_worker: int = 1
    coupling: Coupling = Coupling.TIGHT
    window: str | None = None
    deadline_s: float | None = None
    work_s: float | None = None
    steps_left: int | None = None
    min_slice_s: float = 0.0
    ending: Ending = NO_ENDING
    spending: Spending = UNLIMITED
    unmet: tuple[str, ...] = ()
    data_staged: bool = True
    active: bool = True
    serves: bool = False
    min_devices: int = field(init=False, repr=False, compare=False)
    shape: Shape = field(init=False, repr=False, compare=False)
    line: tuple[str, int, str, str] = field(init=False, repr=False, compare=False)
    since: tuple[float, str] = field(init=False, repr=False, compare=False)
    plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes, window, put = self.sizes, self.window, object.__setattr__
        shape = (sizes[0], sizes[-1], self.devices_per_worker, self.coupling, window, self.resource)
        put(self, "min_devices", sizes[0] * self.devices_per_worker)
        put(self, "shape", _one(shape))
        put(self, "line", _one((self.queue, self.priority, self.tenant, self.resource)))
        put(self, "since", (self.submitted_s, self.id))
        free = window is None and self.deadline_s is None and self.spending == UNLIMITED
        put(self, "plain", free and self.active and self.data_staged and not self.unmet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    """What a running job knows of its resizes: whether growing pays is answered by `policy.resize` with it.

    `ending`: what the end of its night takes after the last step. `slow_stop_s`: 95 of 100 of its stops took no longer;
    None where none was seen.
    """

    plan: RunPlan
    state: ResizeState
    outlook: tuple[Outlook, ...]
    stall_s: float
    stop_s: float
    ending: Ending = NO_ENDING
    slow_stop_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job that holds devices: its held leases are where its workers sit.

    `lost_work_s`: worker-seconds that stopping it now would waste (unsaved work and stall). `checkpoint_age_s`: since
    its state was last safe. `reserved`: what was set aside for it in its tenant's purse.
    """

    job: Job
    started_s: float
    lost_work_s: float = 0.0
    checkpoint_age_s: float = 0.0
    reserved: Purse = NOTHING
    tempo: Tempo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A waiting job for which devices were asked back: when they have come, they are its own up to `workers`."""

    job: str
    pool: str
    workers: int
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """A waiting job that was promised a start; said at `since_s`, for `at_s`."""

    job: str
    since_s: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that decides, at `now_s` (UTC seconds). Tuples may come in any order; the answer is the same.

    `claims` and `promises` are what the last decision said of them: the only memory that the queues have.
    Raises: ValueError where two jobs have the same id.
    """

    now_s: float
    rules: Rules
    pools: tuple[Pool, ...]
    queues: tuple[Queue, ...]
    tenants: tuple[Tenant, ...]
    windows: tuple[OpenHours, ...] = ()
    levels: tuple[Level, ...] = ()
    waiting: tuple[Job, ...] = ()
    running: tuple[Running, ...] = ()
    leases: tuple[Lease, ...] = ()
    claims: tuple[Claimed, ...] = ()
    promises: tuple[Promised, ...] = ()

    def __post_init__(self) -> None:
        ids = [*map(_ID, self.waiting), *(one.job.id for one in self.running)]
        if len(set(ids)) != len(ids):
            twice = sorted({one for one in ids if ids.count(one) > 1})
            raise ValueError(f"jobs {', '.join(twice)} are there twice; an id names one job")
