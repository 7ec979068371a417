"""Values of lending: what an endpoint is, who holds its devices, and what is decided about them."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.policy.windows import Window

# Demand is measured: a sum of rates that meets a capacity exactly must not ask for one replica more.
_ROUNDING = 1e-9


class LendingReason(enum.StrEnum):
    """Why devices are lent or called back, or why they are not."""

    SPARE_FOR_A_SLICE = "spare_for_a_slice"
    DEMAND_RISES = "demand_rises"
    WINDOW_CLOSES = "window_closes"
    DEMAND_ABOVE_CAPACITY = "demand_above_capacity"
    LEFT_LATE = "left_late"
    METRICS_STALE = "metrics_stale"
    NOT_WANTED = "not_wanted"
    OUTSIDE_WINDOW = "outside_window"
    WINDOW_TOO_SHORT = "window_too_short"
    SPARE_TOO_SHORT = "spare_too_short"
    NOTHING_SPARE = "nothing_spare"
    SETTLING = "settling"
    ALL_SPARE_IS_LENT = "all_spare_is_lent"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallTimes:
    """How long a recall takes, part by part, each at the 95th percentile of what was measured.

    `left_s`: of snapshot and drain together, what was measured at recalls, 0 while there were too few; the rest may be
    taken for granted, or be an operator's word.
    """

    snapshot_s: float
    drain_s: float
    cold_start_s: float
    left_s: float = 0.0

    @property
    def lead_s(self) -> float:
        """From calling a device back in good order to its replica's first answer."""
        return self.snapshot_s + self.drain_s + self.cold_start_s

    @property
    def emergency_s(self) -> float:
        """The same when training is killed: its state is in the keepers, nothing is waited for."""
        return self.cold_start_s


def p95(part: str, measured_s: Sequence[float]) -> float:
    """The smallest measured value that 95 of 100 are not above. Raises: ValueError for none, or for one below 0."""
    if not measured_s or min(measured_s) < 0:
        raise ValueError(f"{part}: no 95th percentile of {list(measured_s)[:3]}; measured seconds are needed, from 0")
    ordered = sorted(measured_s)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStop:
    """Of the jobs that train on a pool, the one that takes longest to stop with its state safe: 95 of 100 of its stops
    took no longer than `stop_s`."""

    job: str
    stop_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """Why a lead is longer than it was meant to be: training takes `took_s` to let go, `allowed_s` were meant for it.
    `job`: whose stops are so slow; None: so it was at earlier recalls."""

    allowed_s: float
    took_s: float
    job: str | None = None

    @property
    def detail(self) -> str:
        """For people."""
        who = "training took" if self.job is None else f"stops of job {self.job} took"
        longer = f"called back {self.took_s - self.allowed_s:.0f} s earlier for it"
        return f"{who} up to {self.took_s:.0f} s (p95), {self.allowed_s:.0f} s were meant for that: {longer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an operator and the measurements say of one endpoint and the devices it may lend.

    `replica_rps`: what one replica serves within its SLO. `jump_margin`: reserve beyond the largest rise seen within
    one recall, as a part of it. `windows`: lend only while one is open; none = whenever the forecast allows.
    `timezone`: whose weekdays and hours the customers keep. `settle_s`: least time between one lending and the next,
    so that training is not resized for single devices. `stale_s`: demand that is older says nothing any more. `late`:
    why `times` are longer than they were meant to be.
    """

    pool: str
    devices: int
    devices_per_replica: int = 1
    replica_rps: float
    min_replicas: int = 1
    times: RecallTimes
    jump_margin: float = 0.25
    min_slice_s: float = 1800.0
    history_s: float = 1_209_600.0
    windows: tuple[Window, ...] = ()
    grace_s: float = 120.0
    timezone: str = "UTC"
    settle_s: float = 300.0
    stale_s: float = 120.0
    late: Late | None = None

    def __post_init__(self) -> None:
        if self.replica_rps <= 0 or self.devices < 0 or self.devices_per_replica < 1:
            raise ValueError(f"{self.pool}: {self.devices} devices of {self.replica_rps} rps cannot serve anything")

    @property
    def replicas(self) -> int:
        """Replicas when nothing is lent."""
        return self.devices // self.devices_per_replica

    @property
    def slice_and_lead_s(self) -> float:
        """The shortest stretch that is worth lending for: a useful slice, and the recall after it."""
        return self.min_slice_s + self.times.lead_s

    def replicas_for(self, rps: float) -> int:
        """Replicas that keep the SLO at a demand; never more than there can be."""
        needed = math.ceil(rps / self.replica_rps - _ROUNDING)
        return min(self.replicas, max(self.min_replicas, needed))


@dataclass(frozen=True, slots=True, order=True)
class Loan:
    """Replicas' worth of devices in training's hands since then."""

    since_s: float
    replicas: int


@dataclass(frozen=True, slots=True, order=True)
class Return:
    """Replicas that were called back and serve again at `serves_at_s`; `left` says that training has let go of them."""

    serves_at_s: float
    replicas: int
    called_s: float
    left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who holds the replicas' devices, as observed: `serving` answer requests, the rest is lent or on its way back."""

    serving: int
    loans: tuple[Loan, ...] = ()
    returns: tuple[Return, ...] = ()

    @property
    def lent(self) -> int:
        """Replicas whose devices train."""
        return sum(loan.replicas for loan in self.loans)

    @property
    def returning(self) -> int:
        """Replicas that were called back and do not answer yet."""
        return sum(one.replicas for one in self.returns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lend:
    """Stop so many replicas and let training have their devices; `until_s`: how long the forecast gives them."""

    replicas: int
    until_s: float
    reason: LendingReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Call so many replicas' devices back: in good order, they serve one lead later."""

    replicas: int
    reason: LendingReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Emergency:
    """Kill training on so many replicas' devices, and hurry everything that is on its way back already."""

    replicas: int
    reason: LendingReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Change nothing."""

    reason: LendingReason
    detail: str


Decision = Lend | Recall | Emergency | Keep
