"""Values for who shares: queues with quotas per pool, tenants with contributions and purses, rules for all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A queue's devices in one pool, in whole devices.

    `borrow`: devices beyond nominal that it may take from its cohort; None = any number. `lend`: devices of nominal
    that its cohort may use while the queue does not; None = all.
    """

    pool: str
    nominal: int
    borrow: int | None = None
    lend: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Jobs that share a quota. No tenants named = everybody may submit; `on_hold`: nothing starts from it and none
    of its training jobs is given more; what runs goes on with what it has."""

    name: str
    quotas: tuple[Quota, ...]
    weight: float = 1.0
    cohort: str | None = None
    tenants: frozenset[str] = frozenset()
    min_run_s: float = 0.0
    on_hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """Devices a tenant brought into a pool; lent ones come back within `recall_grace_s` when it has demand."""

    pool: str
    devices: int
    recall_grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What a tenant may still spend: granted and not spent; amounts reserved for its running jobs are still inside.

    Integers: micro-dollars, device-milliseconds, optimizer steps.
    """

    micro_usd: int = 0
    device_ms: int = 0
    iterations: int = 0


NOTHING = Purse()
"""No amount at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """A tenant's decayed use of one resource, in devices: what it held on average, the recent past weighing most."""

    resource: str
    devices: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A group of people. `purse` None: the house pays, nothing is metered."""

    name: str
    weight: float = 1.0
    contributions: tuple[Contribution, ...] = ()
    purse: Purse | None = None
    recent: tuple[Recent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The slowest link that workers of one coupling may have between them; a link of unknown speed passes."""

    min_bandwidth_bytes_per_s: float = 0.0
    max_latency_s: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for all queues.

    `tight`: links within a tight job and within an island of a modular one; `modular`: links between islands;
    `island_min_workers`: fewer do not make an island. `unknown_run_s`: how long a job is expected to run of which
    nobody knows better. `drain_grace_s`: time given to save state when devices are asked back. `urgent_s`: a job whose
    latest start for its deadline is nearer than this goes first within its tenant. `max_starts`: most jobs one cycle
    starts, so that a cycle's time is bounded. `usage_half_life_s`: how fast past use is forgotten.
    """

    tight: Reach
    modular: Reach
    island_min_workers: int
    unknown_run_s: float
    drain_grace_s: float
    urgent_s: float
    max_starts: int
    usage_half_life_s: float
