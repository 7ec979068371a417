"""Who asks: the tenant behind a request, and what of the endpoint is open to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from serving.http.errors import ApiError
from serving.policy import SERVICE_TIER_OF, Tier

_SCOPE = "tide.caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """`key_id` is the public part of an API key; `tiers` None = all."""

    tenant: str
    key_id: str = ""
    tiers: frozenset[Tier] | None = None

    def session(self, name: str | None) -> str | None:
        """A session's name that no other key can share."""
        return None if name is None else f"{self.key_id}\0{name}"

    def check_tier(self, tier: Tier) -> None:
        """Raises: ApiError 403 for a tier that the key does not open."""
        if self.tiers is not None and tier not in self.tiers:
            opened = ", ".join(sorted(SERVICE_TIER_OF[each] for each in self.tiers))
            message = f"service_tier: this API key does not open {SERVICE_TIER_OF[tier]!r}; it opens {opened}"
            raise ApiError(403, message, code="tier_not_allowed", param="service_tier", kind="permission_error")


# Whoever reaches an endpoint without keys: this machine's users.
ANYONE = Caller(tenant="default")


def set_caller(scope: Scope, caller: Caller) -> None:
    """Note who asks, before the request reaches a route."""
    scope[_SCOPE] = caller


def caller_of(request: Request) -> Caller:
    """Who asks."""
    caller: Caller = request.scope.get(_SCOPE, ANYONE)
    return caller


Asking = Annotated[Caller, Depends(caller_of)]
