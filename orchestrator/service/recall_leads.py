"""A chore: it is said when training stops more slowly than it was meant to be called back.

An endpoint calls its devices back earlier then, by itself; what a tenant has within its grace is a promise that stands,
and who is slower than that is killed. Both are events of the job in question: once each, and once again after a
restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import structlog

from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.repository import Ledger
from orchestrator.policy.lending.values import Terms

log = structlog.get_logger(__name__)

RECALL_LEAD, RECALL_GRACE = "recall-lead", "recall-grace"
EVERY_S = 30.0
"""Between two looks at who is slow."""
Told = dict[tuple[str, str], str]


class HasTerms(Protocol):
    """As `adapters.endpoints.holders.EndpointHolders`."""

    @property
    def terms(self) -> Mapping[str, Terms]:
        """Under which terms endpoints lend, by job."""
        ...


class RecallLeads:
    """`endpoints`: those that lend."""

    def __init__(self, ledger: Ledger, endpoints: HasTerms) -> None:
        self._ledger = ledger
        self._endpoints = endpoints
        self._told: Told = {}
        self._looked_s = float("-inf")
        self._generation = 0
        self._graces: tuple[tuple[str, str, float], ...] = ()

    def __call__(self, now_s: float) -> float | None:
        """Say what was not said yet. Raises: NotLeadingError, and what the ledger raises."""
        if 0 <= now_s - self._looked_s < EVERY_S:
            return None
        self._looked_s = now_s
        self._told = dict([*self._leads(), *self._owners()])
        return None

    def _leads(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Endpoints whose devices are called back earlier than meant, and for whose sake."""
        for job, terms in self._endpoints.terms.items():
            late = terms.late
            if late is None:
                continue
            key, who = (RECALL_LEAD, job), late.job or ""
            if self._told.get(key) != who:
                self._say(job, RECALL_LEAD, of=who, lead_s=terms.times.lead_s, took_s=late.took_s,
                          allowed_s=late.allowed_s, detail=late.detail)  # fmt: skip
            yield key, who

    def _owners(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Jobs on devices that their owner has back sooner than they stop."""
        for tenant, pool, grace_s in self._follow():
            slow = self._ledger.slowest_stop(pool, not_of=tenant)
            if slow is None or slow.stop_s <= grace_s:
                continue
            key = (RECALL_GRACE, f"{tenant} {pool}")
            if self._told.get(key) != slow.job:
                detail = (
                    f"its stops take up to {slow.stop_s:.0f} s (p95), and tenant {tenant!r} has its devices of pool "
                    f"{pool!r} back after {grace_s:.0f} s: it would be killed then, and go on from its last snapshot"
                )
                self._say(slow.job, RECALL_GRACE, tenant=tenant, pool=pool, grace_s=grace_s, took_s=slow.stop_s,
                          detail=detail)  # fmt: skip
            yield key, slow.job

    def _follow(self) -> tuple[tuple[str, str, float], ...]:
        """Who brought devices into which pool, and how soon they have them back."""
        generation = self._ledger.read.generation()
        if generation != self._generation:
            found = self._ledger.read.cluster()
            tenants = () if found is None else found[1].spec.tenants
            self._graces = tuple((of.name, one.pool, one.recall_grace) for of in tenants for one in of.contributions)
            self._generation = generation
        return self._graces

    def _say(self, job: str, kind: str, **data: str | float) -> None:
        with contextlib.suppress(UnknownJobError):  # it has ended meanwhile
            self._ledger.say(job, kind, **data)
            log.warning("training stops more slowly than it was meant to be called back", job=job, kind=kind, **data)
