"""Writes snapshots from shared memory to storage while training goes on, all nodes at once, committed by the lead.

Every node writes the parts it is responsible for; when all are there, the lead writes the manifest, which makes them a
checkpoint. A failure leaves what was committed before as it was, is recorded, and is tried again with a newer snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from jobs.train.keeper.faults import Faults, Point, no_faults
from jobs.train.keeper.mirror import is_responsible
from jobs.train.keeper.restore import assemble_manifest, collect_entries
from jobs.train.keeper.runs import Runs
from jobs.train.keeper.store import PartStore, SealedPart
from jobs.train.keeper.transport import PeerTransport
from jobs.train.keeper.values import AttemptPlan, SnapshotKey
from orchestrator.spec.errors import UserError

_log = structlog.get_logger(__name__)
_CHUNK_BYTES = 4 * 2**20


class CheckpointStorage(Protocol):
    """The part of `jobs.train.state` that a flush needs."""

    def write_part(self, file: str, data: Collection[memoryview], nbytes: int) -> None:
        """Write one part; nothing refers to it yet. Raises: UserError."""
        ...

    def commit(self, manifest: bytes, keep: int) -> None:
        """Make the checkpoint visible and remove all but the newest `keep`. Raises: UserError."""
        ...


class Flusher:
    """One keeper's part in flushing. `open_storage` gives the storage of a URL; it is called for every flush, so that
    storage which was gone is found again."""

    def __init__(
        self,
        runs: Runs,
        store: PartStore,
        transport: PeerTransport,
        open_storage: Callable[[str], CheckpointStorage],
        *,
        clock: Callable[[], float],
        news: Callable[[], None],
        faults: Faults = no_faults,
    ) -> None:
        self._runs = runs
        self._store = store
        self._transport = transport
        self._open_storage = open_storage
        self._clock = clock
        self._news = news
        self._faults = faults

    def pump(self) -> float | None:
        """Write one part, or commit; None if there is nothing to do until something changes."""
        for plan in self._runs.plans():
            if plan.storage_url and (self._write_next(plan) or self._commit(plan)):
                self._news()
                return 0.0
        return None

    def _write_next(self, plan: AttemptPlan) -> bool:
        with self._runs.changed:
            run = self._runs.get(plan.run)
            target = run.verdicts.flush if run else None
            if run is None or target is None or (run.flush_failed and run.flush_failed[0] == target):
                return False
            part = next((p for p in self._mine(plan, target) if p.meta.key not in run.flushed), None)
        if part is None:
            return False
        try:
            self._faults(Point.FLUSH_BEFORE_PART)
            storage = self._open_storage(plan.storage_url)
            storage.write_part(part.meta.file, _chunks(part.data()), part.meta.nbytes)
            self._faults(Point.FLUSH_AFTER_PART)
        except (UserError, OSError) as error:
            _log.error("checkpoint part not written", step=target.step, rank=part.meta.key.rank, error=str(error))
            self._runs.flush_failed(target, str(error))
        else:
            self._runs.flushed(part.meta.key)
        return True

    def _mine(self, plan: AttemptPlan, target: SnapshotKey) -> list[SealedPart]:
        return [
            part
            for part in self._store.sealed(plan.run)
            if part.meta.key.snapshot == target and is_responsible(self._runs.node, part.meta.origin, plan)
        ]

    def _commit(self, plan: AttemptPlan) -> bool:
        with self._runs.changed:
            run = self._runs.get(plan.run)
            lead = run.lead if run else None
            key = lead.to_commit() if lead else None
        if lead is None or key is None:
            return False
        error = ""
        try:
            entries = collect_entries(self._transport, plan.nodes, key)
            self._faults(Point.FLUSH_BEFORE_COMMIT)
            self._open_storage(plan.storage_url).commit(assemble_manifest(key, entries), plan.keep_checkpoints)
            self._faults(Point.FLUSH_AFTER_COMMIT)
        except (UserError, OSError) as failure:
            error = str(failure)
            _log.error("checkpoint not committed", step=key.step, error=error)
        with self._runs.changed:
            if error:
                lead.commit_failed(key, error, self._clock())
            else:
                lead.committed(key, self._clock())
            self._runs.changed.notify_all()
        return True


def _chunks(data: memoryview) -> list[memoryview]:
    return [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)]
