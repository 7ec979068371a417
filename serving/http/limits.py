"""What one tenant may ask of this replica: requests and tokens a minute, and requests at once. Pure; is told the time.

Buckets: a minute's allowance may be used at once and refills evenly, so the time to come again is exact.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

_MINUTE_S = 60.0
# Weight of the newest request in the mean time that a tenant's requests take.
_NEWEST = 0.2
_FIRST_GUESS_S = 1.0


class Limit(enum.StrEnum):
    """Which limit was reached; `code` of the answer and metric label."""

    REQUESTS = "requests_per_min"
    TOKENS = "tokens_per_min"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """None = no limit."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """Not now. `retry_after_s` is when it would be granted; None = never, the request is larger than the limit."""

    limit: Limit
    allowed: int
    retry_after_s: float | None


@dataclass(slots=True)
class _Bucket:
    per_min: int
    level: float
    at_s: float

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until `amount` is there; 0 when it is."""
        rate = self.per_min / _MINUTE_S
        self.level = min(self.per_min, self.level + (now_s - self.at_s) * rate)
        self.at_s = now_s
        return max(0.0, (amount - self.level) / rate)


@dataclass(slots=True)
class _Tenant:
    requests: _Bucket | None
    tokens: _Bucket | None
    running: int = 0
    mean_s: float = _FIRST_GUESS_S


@dataclass(slots=True)
class Hold:
    """A granted request; `Limiter.release` ends it."""

    tenant: str
    tokens: int
    since_s: float
    released: bool = field(default=False)


class Limiter:
    """Counts per tenant. Single-threaded: the event loop's."""

    def __init__(self, limits: TenantLimits) -> None:
        self._limits = limits
        self._tenants: dict[str, _Tenant] = {}

    def arrive(self, tenant: str, *, now_s: float) -> Limited | None:
        """Count a request, of whatever kind."""
        bucket = self._state(tenant, now_s).requests
        if bucket is None:
            return None
        if wait_s := bucket.wait_s(1, now_s):
            return Limited(limit=Limit.REQUESTS, allowed=bucket.per_min, retry_after_s=wait_s)
        bucket.level -= 1
        return None

    def take(self, tenant: str, tokens: int, *, now_s: float) -> Hold | Limited:
        """Begin a request that may cost `tokens`."""
        state, allowed = self._state(tenant, now_s), self._limits.concurrency
        if allowed is not None and state.running >= allowed:
            # Requests end evenly spread over the time one takes.
            return Limited(limit=Limit.CONCURRENCY, allowed=allowed, retry_after_s=state.mean_s / state.running)
        if state.tokens is not None:
            if tokens > state.tokens.per_min:
                return Limited(limit=Limit.TOKENS, allowed=state.tokens.per_min, retry_after_s=None)
            if wait_s := state.tokens.wait_s(tokens, now_s):
                return Limited(limit=Limit.TOKENS, allowed=state.tokens.per_min, retry_after_s=wait_s)
            state.tokens.level -= tokens
        state.running += 1
        return Hold(tenant=tenant, tokens=tokens, since_s=now_s)

    def release(self, hold: Hold, *, used_tokens: int, now_s: float) -> None:
        """End a request; tokens that were not used are given back. Only the first call counts."""
        if hold.released:
            return
        hold.released = True
        state = self._state(hold.tenant, now_s)
        state.running -= 1
        state.mean_s += _NEWEST * (now_s - hold.since_s - state.mean_s)
        if state.tokens is not None:
            state.tokens.level += hold.tokens - used_tokens

    def _state(self, tenant: str, now_s: float) -> _Tenant:
        if tenant not in self._tenants:
            limits = self._limits
            self._tenants[tenant] = _Tenant(
                requests=_bucket(limits.requests_per_min, now_s), tokens=_bucket(limits.tokens_per_min, now_s)
            )
        return self._tenants[tenant]


def _bucket(per_min: int | None, now_s: float) -> _Bucket | None:
    return None if per_min is None else _Bucket(per_min=per_min, level=float(per_min), at_s=now_s)
