"""Fair shares: how much a tenant has had lately and holds now, for its weight and beyond what it brought itself.

A standing is (recent + held - contributed) / weight, in devices; the lowest goes first. Everything is counted by
tenant and device, never by job, so that splitting a job, renaming it or misstating its minimum moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.policy.queueing.parties import Tenant


def recent_after(recent: float, held: float, elapsed_s: float, half_life_s: float) -> float:
    """Decayed use, in devices, after `held` devices were held for `elapsed_s`: the exact exponential average.

    Raises: ValueError if time runs backwards or the half-life is not above 0.
    Holds: two steps of s and t give the same as one of s + t; the result lies between `recent` and `held`.
    """
    if elapsed_s < 0 or half_life_s <= 0:
        raise ValueError(f"elapsed_s is {elapsed_s}, half_life_s {half_life_s}; need >= 0 and > 0")
    kept = math.exp2(-elapsed_s / half_life_s)
    return recent * kept + held * (1 - kept)


@dataclass(slots=True)
class Member:
    """One tenant in one resource, in a decision in the making."""

    weight: float
    base: float
    held: int = 0

    @property
    def standing(self) -> float:
        """Devices had and held beyond its own, for its weight."""
        return self.after(0)

    def after(self, devices: int) -> float:
        """Its standing with so many devices more (or fewer)."""
        return max(0.0, self.base + self.held + devices) / self.weight


@dataclass(slots=True)
class Owned:
    """What a tenant brought into one pool, and what it holds there."""

    contributed: int
    grace_s: float
    held: int = 0

    @property
    def available(self) -> int:
        """Devices of its own that it does not hold yet."""
        return max(0, self.contributed - self.held)


@dataclass(slots=True)
class Shares:
    """All tenants of one decision. One that is not named in the cluster has weight 1 and brought nothing."""

    members: dict[tuple[str, str], Member] = field(default_factory=dict)
    owned: dict[tuple[str, str], Owned] = field(default_factory=dict)

    @classmethod
    def of(cls, tenants: Iterable[Tenant], resource_of: dict[str, str]) -> Shares:
        """Standings by (tenant, resource), ownership by (tenant, pool); nobody holds anything yet."""
        shares = cls()
        for tenant in tenants:
            base = {one.resource: one.devices for one in tenant.recent}
            for one in tenant.contributions:
                resource = resource_of.get(one.pool)
                if resource is not None:
                    base[resource] = base.get(resource, 0.0) - one.devices
                    shares.owned[tenant.name, one.pool] = Owned(one.devices, one.recall_grace_s)
            for resource in sorted(set(resource_of.values())):
                shares.members[tenant.name, resource] = Member(tenant.weight, base.get(resource, 0.0))
        return shares

    def member(self, tenant: str, resource: str) -> Member:
        """A tenant's standing in a resource."""
        found = self.members.get((tenant, resource))
        if found is None:
            found = self.members[tenant, resource] = Member(1.0, 0.0)
        return found

    def own_available(self, tenant: str, pool: str) -> int:
        """Devices a tenant may take in a pool because it brought them."""
        owned = self.owned.get((tenant, pool))
        return owned.available if owned else 0

    def charge(self, tenant: str | None, resource: str, pool: str, devices: int) -> None:
        """Give a tenant devices (or take them back)."""
        if tenant is None:
            return
        self.member(tenant, resource).held += devices
        owned = self.owned.get((tenant, pool))
        if owned is not None:
            owned.held += devices
