"""Bring an engine to a saved state, from the nearest place that has it, all ranks alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from jobs.train.config import RankJob
from jobs.train.engine import Engine
from jobs.train.state.checkpoints import latest
from jobs.train.state.compatibility import Expected, changes
from jobs.train.state.deepspeed_shards import view_of
from jobs.train.state.errors import CorruptStateError
from jobs.train.state.manifest import Manifest
from jobs.train.state.recovery import load_latest_good
from jobs.train.state.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The state an engine now has; `detail` says why it is not the one that was asked for, if so, and what else is
    otherwise than when it was saved."""

    manifest: Manifest
    source: Literal["keepers", "storage"]
    read_bytes: int
    detail: str


class StateSource(Protocol):
    """Where saved states come from. Collective: every rank calls, every rank gets the same step."""

    def load_newest(self, engine: Engine, job: RankJob, dataset_hash: str) -> Restored | None:
        """Fill the engine from the newest state that is sound on every rank; None if there is none.

        Raises: WrongStateError if it belongs to another model or data set, CorruptStateError if none is sound.
        """
        ...


class StorageSource:
    """Checkpoints in storage."""

    def __init__(self, storage: Storage, agree: Callable[[bool], bool]) -> None:
        self._storage = storage
        self._agree = agree

    def load_newest(self, engine: Engine, job: RankJob, dataset_hash: str) -> Restored | None:
        newest = latest(self._storage, job.run_id)
        if newest is None:
            return None
        view = view_of(engine.deepspeed, moments=newest.moments)
        expected = Expected(
            shapes=view.shapes, dataset_hash=dataset_hash, zero_stage=job.zero_stage, precision=job.precision
        )
        loaded = load_latest_good(view, self._storage, job.run_id, expected, self._agree)
        if loaded is None:
            return None
        return Restored(
            manifest=loaded.manifest,
            source="storage",
            read_bytes=loaded.report.read_bytes,
            detail="; ".join([*loaded.refused, *changes(expected, loaded.manifest)]),
        )


def restore(source: StateSource | None, engine: Engine, job: RankJob, dataset_hash: str) -> Restored:
    """The state that the job's `restore` asks for, or the newest sound one before it.

    Raises: StateError.
    """
    restored = source.load_newest(engine, job, dataset_hash) if source else None
    if restored is None:
        raise CorruptStateError(
            f"has no state of run {job.run_id!r} at all, and step {job.start_step} was expected",
            where=job.storage_url,
            next_step="Check that every node sees the same storage",
        )
    return restored
