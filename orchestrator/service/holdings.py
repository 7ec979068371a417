"""Endpoints that hold devices, as the books have them: what lending looks at in every cycle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from orchestrator.adapters.endpoints.holders import Holding
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.serving import Serving
from orchestrator.policy.queueing.values import LeaseState
from orchestrator.ports import UnreachableError
from orchestrator.spec import Endpoint, load_text

log = structlog.get_logger(__name__)
_UNBOUNDED = 10**12
"""More devices than there are: what bounds them is the pool."""


class Holdings:
    """Endpoints that hold devices, as the ledger has them; one on several pools lends nothing."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._specs: dict[str, tuple[int, Endpoint]] = {}

    def __call__(self) -> tuple[Holding, ...]:
        """All of them. Raises: NotLeadingError."""
        serving = [one for one in self._ledger.endpoints() if len(_pools(one)) == 1]
        found = [self._holding(one) for one in serving]
        self._specs = {one.row.id: (one.row.version, of.endpoint) for one, of in zip(serving, found, strict=True)}
        owned: dict[str, int] = {}
        for one in found:
            owned[one.pool] = owned.get(one.pool, 0) + one.entitled * one.devices_per_replica
        slow = {pool: self._ledger.slowest_stop(pool) for pool in owned}
        return tuple(replace(one, wanted=self._wanted(one, owned[one.pool]), slow=slow[one.pool]) for one in found)

    def _wanted(self, one: Holding, owned: int) -> int:
        """Replicas' worth of devices that training could use beyond what is no endpoint's."""
        appetite = self._ledger.appetite(one.pool, one.resource, enough=one.observed)
        return -(-max(0, appetite - max(0, one.observed - owned)) // one.devices_per_replica)

    def _holding(self, one: Serving) -> Holding:
        row, (pool,) = one.row, _pools(one)
        sizes = row.shape.sizes if row.pinned_workers is None else (row.pinned_workers,)
        return Holding(
            job=row.id,
            endpoint=self._endpoint(row.id, row.version),
            pool=pool,
            held=sum(lease.devices for lease in one.leases if lease.state is LeaseState.HELD),
            most=min(sizes[-1], self._quota(row.queue, pool) // row.shape.devices_per_worker),
            devices_per_replica=row.shape.devices_per_worker,
            observed=one.observed.get(pool, 0),
            pinned=row.pinned_workers is not None,
            resource=row.shape.resource,
        )

    def _quota(self, queue: str, pool: str) -> int:
        """Devices that a queue may have of a pool, its own and borrowed ones."""
        found = next((one for one in self._ledger.queues() if one.name == queue), None)
        quota = next((one for one in found.quotas if one.pool == pool), None) if found else None
        if quota is None:
            return 0
        if found is None or found.cohort is None:
            return quota.nominal
        return _UNBOUNDED if quota.borrow is None else quota.nominal + quota.borrow

    def _endpoint(self, job: str, version: int) -> Endpoint:
        """Its file, read again when its row has changed: the file may have, too."""
        known = self._specs.get(job)
        if known is not None and known[0] == version:
            return known[1]
        (endpoint,) = load_text(json.dumps(self._ledger.read.document(job)), where=job)
        assert isinstance(endpoint, Endpoint), "its row says so"
        return endpoint


def _pools(one: Serving) -> set[str]:
    return {lease.pool for lease in one.leases if lease.state is LeaseState.HELD}


class Revisions:
    """A chore: an endpoint's process reads the file that holds. Said again by whoever leads next, and heard once."""

    def __init__(self, ledger: Ledger, revise: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._ledger = ledger
        self._revise = revise
        self._told: dict[str, int] = {}

    def __call__(self, now_s: float) -> None:
        """Tell those whose row has changed since they were told."""
        versions = {one.row.id: one.row.version for one in self._ledger.endpoints()}
        self._told = {job: told for job, told in self._told.items() if job in versions}
        for job, version in versions.items():
            if self._told.get(job) != version:
                try:
                    self._revise(job, self._ledger.read.document(job))
                except UnreachableError as error:  # a disk that is full for a moment: the next cycle says it again
                    log.warning("an endpoint was not told of its file", job=job, error=str(error))
                    continue
                self._told[job] = version
