"""A second version on trial: which requests it answers, and when it is taken back."""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass

_WILSON_Z = 2.58  # 99 %: a version is not taken back for bad luck
_MIN_REQUESTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCounts:
    """What became of the requests that one version has answered."""

    requests: int = 0
    failed: int = 0
    missed_slo: int = 0

    def plus(self, *, failed: bool, missed_slo: bool) -> VersionCounts:
        """One more request."""
        return VersionCounts(
            requests=self.requests + 1, failed=self.failed + failed, missed_slo=self.missed_slo + missed_slo
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRules:
    """Both limits are above the stable version's own figure.

    `error_rate`: share of requests that fail. `burn_rate`: share that miss their SLO, in multiples of `slo_budget`, the
    share that may. After `after_s` the plain shares are believed, before it only what cannot be chance.
    """

    weight: float
    error_rate: float
    burn_rate: float
    after_s: float
    slo_budget: float = 0.01


class RollbackReason(enum.StrEnum):
    """Why a version on trial was taken back."""

    ERRORS = "errors"
    SLO_BURN = "slo_burn"
    DID_NOT_START = "did_not_start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The trial goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """The stable version answers everything from now on."""

    reason: RollbackReason
    detail: str


def takes_canary(request_id: str, weight: float) -> bool:
    """Whether the version on trial answers this request: a fixed share of all ids, the same wherever it is asked."""
    draw = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest())
    return draw < weight * 2**64


def judge(stable: VersionCounts, canary: VersionCounts, rules: CanaryRules, *, watched_s: float) -> Keep | RollBack:
    """Keep the version on trial or take it back."""
    if canary.requests < _MIN_REQUESTS:
        return Keep()
    believed = watched_s >= rules.after_s
    limits = (
        (RollbackReason.ERRORS, canary.failed, stable.failed, rules.error_rate),
        (RollbackReason.SLO_BURN, canary.missed_slo, stable.missed_slo, rules.burn_rate * rules.slo_budget),
    )
    for reason, bad, usual, allowed in limits:
        share = bad / canary.requests if believed else _at_least(bad, canary.requests)
        beside = usual / stable.requests if stable.requests else 0.0
        if share > beside + allowed:
            detail = f"{bad} of {canary.requests} requests, the stable version {usual} of {stable.requests}"
            return RollBack(reason=reason, detail=detail)
    return Keep()


def _at_least(bad: int, count: int) -> float:
    """Lower end of the Wilson interval of bad/count."""
    share, z2 = bad / count, _WILSON_Z**2
    spread = _WILSON_Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, (share + z2 / (2 * count) - spread) / (1 + z2 / count))
