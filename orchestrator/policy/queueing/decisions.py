"""What the queues answer: one decision for every waiting job, and one for every running job that must change."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.policy.queueing.parties import NOTHING, Purse
from orchestrator.policy.queueing.values import Claimed, Promised
from orchestrator.policy.resize import ResizeState


class WaitReason(enum.StrEnum):
    """Why a job waits: exactly one, the first thing that would have to change. Ledger column and metric label."""

    DEACTIVATED = "Deactivated"
    ON_HOLD = "OnHold"
    MISCONFIGURED = "Misconfigured"
    NO_MATCHING_POOL = "NoMatchingPool"
    EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    TOPOLOGY_PLACEMENT_FAILED = "TopologyPlacementFailed"
    WAITING_FOR_PREEMPTED = "WaitingForPreempted"
    OUTSIDE_WINDOW = "OutsideWindow"
    WINDOW_TOO_SHORT = "WindowTooShort"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    BUDGET_RESERVED = "BudgetReserved"
    SERVE_HEADROOM = "ServeHeadroom"
    BACKFILL_RESERVATION = "BackfillReservation"
    GANG_INCOMPLETE = "GangIncomplete"
    DATA_NOT_STAGED = "DataNotStaged"
    DEPENDENCY_PENDING = "DependencyPending"
    NODE_HEALTH_HOLD = "NodeHealthHold"
    PENDING_EVALUATION = "PendingEvaluation"


NEVER: frozenset[WaitReason] = frozenset(
    {WaitReason.MISCONFIGURED, WaitReason.NO_MATCHING_POOL, WaitReason.EXCEEDS_MAX_QUOTA}
)
"""Reasons that no passing of time takes away: the job is rejected, not queued."""


class StartReason(enum.StrEnum):
    """By which right a job starts."""

    OWN_DEVICES = "own_devices"
    IN_ORDER = "in_order"
    BACKFILL = "backfill"


class ChangeCause(enum.StrEnum):
    """Why a running job changes size or stops. LENT, RETURNED: an endpoint's devices go to training, and come back.
    EMERGENCY: they are wanted at once, and nothing is saved to storage first."""

    GROWS = "grows"
    LENT = "lent"
    RETURNED = "returned"
    RECALL = "recall"
    EMERGENCY = "emergency"
    RECLAIM = "reclaim"
    PRIORITY = "priority"
    FAIR_SHARE = "fair_share"
    DEVICES_LOST = "devices_lost"
    NODE_LEAVES = "node_leaves"
    WINDOW_CLOSED = "window_closed"
    BUDGET_SPENT = "budget_spent"
    PINNED = "pinned"
    CANCELLED = "cancelled"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Seats:
    """Workers of one job on one node."""

    pool: str
    node: str
    workers: int


Placement = tuple[Seats, ...]


def workers_in(placement: Placement) -> int:
    """Workers in all."""
    return sum(seats.workers for seats in placement)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why, in one word and one sentence; `eta_s` is when it is expected to end, None where nobody can know.

    `pool` is the pool that came nearest to taking the job, `missing` how many devices more it would take: of the
    queue's quota with `of_quota`, else of the pool.
    """

    reason: WaitReason
    detail: str
    eta_s: float | None = None
    pool: str | None = None
    missing: int = 0
    of_quota: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Start on these seats, which are reserved from now on. `reserve` is set aside in the tenant's purse."""

    job: str
    placement: Placement
    reason: StartReason
    detail: str
    reserve: Purse = NOTHING
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now; `why` may be shared by jobs that wait for the same."""

    job: str
    why: Explanation


@dataclass(frozen=True, slots=True)
class Waits:
    """Jobs that are told the same, in order of id."""

    jobs: tuple[str, ...]
    why: Explanation


@dataclass(frozen=True, slots=True)
class Reject:
    """Never, as job and cluster are written: a new job is refused, an accepted one stays until either changes."""

    job: str
    why: Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Run on these seats from now on; seats that are no longer named drain until `drain_until_s`."""

    job: str
    placement: Placement
    cause: ChangeCause
    detail: str
    drain_until_s: float
    for_job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Save state and give everything back until `drain_until_s`; `requeue` False: the job ends here."""

    job: str
    cause: ChangeCause
    detail: str
    drain_until_s: float
    requeue: bool = True
    for_job: str | None = None


Verdict = Admit | Wait | Reject
Change = Resize | Evict


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """One verdict for each waiting job; changes of running jobs, in order of id.

    `starts`: in order of id; `waits`: who does not start, told together where thousands are told the same, in order of
    the first of each. `claims`: who waits for devices that were asked back; `promises`: who was promised a start. Both
    go into the next snapshot as they are. `resize_states`: what `policy.resize` remembers of each running job that it
    was asked about. `wake_at_s`: when to decide again even if nothing happens before.
    """

    starts: tuple[Admit, ...] = ()
    waits: tuple[Waits, ...] = ()
    changes: tuple[Change, ...] = ()
    claims: tuple[Claimed, ...] = ()
    promises: tuple[Promised, ...] = ()
    resize_states: tuple[tuple[str, ResizeState], ...] = ()
    wake_at_s: float | None = None

    def verdicts(self) -> Iterator[Verdict]:
        """One for each waiting job; starts first."""
        yield from self.starts
        for group in self.waits:
            for job in group.jobs:
                yield refusal(job, group.why)

    def verdict(self, job: str) -> Verdict:
        """The verdict on one job. Raises: KeyError if there is none."""
        for start in self.starts:
            if start.job == job:
                return start
        for group in self.waits:
            if job in group.jobs:
                return refusal(job, group.why)
        raise KeyError(job)


def refusal(job: str, why: Explanation) -> Wait | Reject:
    """What a job is told that does not start."""
    return Reject(job, why) if why.reason in NEVER else Wait(job, why)
