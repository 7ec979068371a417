"""The kind Cluster: pools, queues, tenants, windows and the rules by which capacity is shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from orchestrator.spec.base import Document, SpecModel, repeated, unknown_name
from orchestrator.spec.cluster_pools import Level, Pool
from orchestrator.spec.cluster_queues import Queue, Tenant
from orchestrator.spec.cluster_rules import Health, Lending, Notices, RayConnection, Window
from orchestrator.spec.fields import Many
from orchestrator.spec.notify import Notify
from orchestrator.spec.problems import Code, Finding, Path


class ClusterSpec(SpecModel):
    """What there is to share, with whom, and when."""

    ray: RayConnection = Field(default_factory=RayConnection)
    """The Ray cluster that runs the work."""
    pools: Many[Pool]
    """Devices, by kind, price and place."""
    levels: Many[Level] = ()
    """The tree of places that topology paths run through, widest level first."""
    queues: Many[Queue] = ()
    """Who waits for what; none = one queue named default that may use everything."""
    tenants: Many[Tenant] = ()
    """Who there is; none = everybody is the tenant default."""
    windows: Many[Window] = ()
    """Times that jobs can name."""
    lending: Lending | None = None
    """Devices of endpoints that training may use; none = nothing is lent."""
    notices: Notices = Field(default_factory=Notices)
    """Where nodes learn that they will be taken away."""
    health: Health = Field(default_factory=Health)
    """When a node is held back."""
    notify: Notify = Field(default_factory=Notify)
    """Who is told when jobs end."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.pools:
            yield Finding(("pools",), Code.EMPTY, "names no pool", "a cluster without devices can run nothing")
        for key in ("pools", "levels", "queues", "tenants", "windows"):
            yield from repeated((one.name for one in getattr(self, key)), key)
        yield from self._pools_exist()
        yield from self._tenants_exist()
        yield from self._places()
        yield from self._contributions()
        for index, window in enumerate(self.lending.windows if self.lending else ()):
            names = [one.name for one in self.windows]
            yield from unknown_name(window, names, ("lending", "windows", index), "windows")

    def _pools_exist(self) -> Iterator[Finding]:
        known = [pool.name for pool in self.pools]
        for name, at in self._named_pools():
            yield from unknown_name(name, known, at, "pools")

    def _named_pools(self) -> Iterator[tuple[str, Path]]:
        for at, queue in enumerate(self.queues):
            yield from ((one.pool, ("queues", at, "quotas", index, "pool")) for index, one in enumerate(queue.quotas))
        for at, tenant in enumerate(self.tenants):
            brought = enumerate(tenant.contributions)
            yield from ((one.pool, ("tenants", at, "contributions", index, "pool")) for index, one in brought)
        for at, window in enumerate(self.windows):
            yield from ((pool, ("windows", at, "pools", index)) for index, pool in enumerate(window.pools))
        if self.lending:
            yield from ((pool, ("lending", "pools", index)) for index, pool in enumerate(self.lending.pools))

    def _tenants_exist(self) -> Iterator[Finding]:
        known = [tenant.name for tenant in self.tenants]
        for name, at in self._named_tenants() if known else ():
            yield from unknown_name(name, known, at, "tenants")

    def _named_tenants(self) -> Iterator[tuple[str, Path]]:
        for at, queue in enumerate(self.queues):
            yield from ((name, ("queues", at, "tenants", index)) for index, name in enumerate(queue.tenants))
        for at, tenant in enumerate(self.tenants):
            for index, grant in enumerate(tenant.grants):
                if grant.sponsor is not None:
                    yield grant.sponsor, ("tenants", at, "grants", index, "sponsor")

    def _places(self) -> Iterator[Finding]:
        for index, pool in enumerate(self.pools):
            depth = len(pool.topology.split("/")) if pool.topology else 0
            if self.levels and depth > len(self.levels):
                what = f"{pool.topology!r} has {depth} places and there are {len(self.levels)} levels"
                want = "a path must not be deeper than levels"
                yield Finding(
                    ("pools", index, "topology"), Code.CONFLICT, what, want, "Add levels, or shorten the path"
                )

    def _contributions(self) -> Iterator[Finding]:
        for pool in self.pools:
            given = 0
            for at, tenant in enumerate(self.tenants):
                for index, one in enumerate(tenant.contributions):
                    given += one.devices if one.pool == pool.name else 0
                    if one.pool == pool.name and pool.count is not None and given > pool.count:
                        what = f"with this one, tenants bring {given} devices and pool {pool.name!r} holds {pool.count}"
                        where = ("tenants", at, "contributions", index, "devices")
                        yield Finding(where, Code.CONFLICT, what, "the sum must be at most the pool's count")


class Cluster(Document):
    """A cluster."""

    kind: Literal["Cluster"] = "Cluster"
    """What the document describes."""
    spec: ClusterSpec
    """What there is and how it is shared."""
