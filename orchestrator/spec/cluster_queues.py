"""The queues and tenants of a Cluster: who may use how much of what, and what they brought along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from orchestrator.spec.base import SpecModel, repeated, without_effect
from orchestrator.spec.fields import Count, CountOrZero, Duration, Many, Money, Name, OneOf, Positive
from orchestrator.spec.problems import Code, Finding


class Quota(SpecModel):
    """A queue's devices in one pool. Whole devices: parts of devices were truncated elsewhere, and jobs lost them."""

    pool: Name
    """The pool."""
    nominal: CountOrZero
    """Devices the queue can always have back."""
    borrow: CountOrZero | None = None
    """Devices beyond nominal that it may take from its cohort while they are idle; none = any number."""
    lend: CountOrZero | None = None
    """Devices of nominal that its cohort may use while the queue does not; none = all of them."""

    def cross_check(self) -> Iterator[Finding]:
        if self.lend is not None and self.lend > self.nominal:
            what = f"{self.lend} is above nominal ({self.nominal})"
            yield Finding(("lend",), Code.MIN_ABOVE_MAX, what, "a queue can lend only what it has")


class Queue(SpecModel):
    """Jobs that share a quota."""

    name: Name
    """What jobs name."""
    weight: Positive = 1.0
    """Share of what is idle, relative to the other queues of the cohort."""
    cohort: Name | None = None
    """Queues of one cohort lend to and borrow from each other; none = the quota is all there is."""
    tenants: Many[Name] = ()
    """Who may submit; none = everybody."""
    quotas: Many[Quota]
    """Its devices, pool by pool; a pool that is not named is not used."""
    min_run: Duration = 600.0
    """A job that was started is left alone for so long, unless its device vanishes."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.quotas:
            yield Finding(("quotas",), Code.EMPTY, "names no pool", "a queue without quota can run nothing")
        yield from repeated((quota.pool for quota in self.quotas), "quotas", key="pool")
        yield from repeated(self.tenants, "tenants", key="")
        if self.cohort is None:
            yield from self._alone()

    def _alone(self) -> Iterator[Finding]:
        because = "a queue without cohort has nobody to trade with"
        yield from without_effect(self, ["weight"], because)
        for index, quota in enumerate(self.quotas):
            for found in without_effect(quota, ["borrow", "lend"], because):
                yield found.below("quotas", index)


class Contribution(SpecModel):
    """Devices that a tenant brought into the cluster; they buy it a share of the same size."""

    pool: Name
    """The pool they joined."""
    devices: Count
    """How many."""
    recall_grace: Duration = 300.0
    """How soon it has them back when it has demand."""


class Grant(SpecModel):
    """What a sponsor gives a tenant to spend; exactly one of the three amounts."""

    sponsor: Name | None = None
    """The tenant who pays; none = the house."""
    iterations: Count | None = None
    """Optimizer steps, priced by the job's measured cost of a step; unused ones are given back."""
    device_hours: Positive | None = None
    """Hours of devices."""
    usd: Money | None = None
    """US dollars."""

    def cross_check(self) -> Iterator[Finding]:
        named = [key for key in ("iterations", "device_hours", "usd") if getattr(self, key) is not None]
        if len(named) != 1:
            what = f"names {' and '.join(named)}" if named else "grants nothing"
            want = "it must name one of iterations, device_hours, usd"
            yield Finding((), Code.CONFLICT, what, want, "Write a grant for each amount")
        if self.usd == 0:
            yield Finding(("usd",), Code.OUT_OF_BOUNDS, "0 buys nothing", "it must be above 0")


class Tenant(SpecModel):
    """A group of people with a purse."""

    name: Name
    """What jobs and keys name."""
    role: Annotated[Literal["viewer", "operator", "admin"], OneOf()] = "operator"
    """The most its keys may do: look, run jobs, change the cluster."""
    weight: Positive = 1.0
    """Share within its queues, relative to other tenants."""
    contributions: Many[Contribution] = ()
    """Devices it brought."""
    grants: Many[Grant] = ()
    """What it was given to spend."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated((one.pool for one in self.contributions), "contributions", key="pool")
        for index, grant in enumerate(self.grants):
            if grant.sponsor == self.name:
                at = ("grants", index, "sponsor")
                yield Finding(at, Code.CONFLICT, "is the tenant itself", "a sponsor must be somebody else", "Remove it")
