"""Where a rank's state goes to and comes from, by what its job names: the node's keeper, storage, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.groups import Groups, all_succeed
from jobs.train.restoring import StateSource, StorageSource
from jobs.train.saving import SnapshotSink
from jobs.train.state.open_storage import open_storage
from jobs.train.storage_sink import StorageSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`sink` None: nothing is saved; `source` None: there is nothing to restore from."""

    sink: SnapshotSink | None
    source: StateSource | None


def places_of(request: StartRequest, groups: Groups, channel: Channel) -> Places:
    """Raises: StorageError for a storage URL that means none."""
    job = request.job
    if not job.storage_url:
        return Places(sink=None, source=None)
    storage = open_storage(job.storage_url)
    sink = StorageSink(storage, groups.store.clone(), request.rank, request.world_size, channel.send)
    return Places(sink=sink, source=StorageSource(storage, agree=lambda good: all_succeed(good, groups.small)))


class NoSaving:
    """For a job without storage and keeper: its state ends with it."""

    def save(self, step: int, replicated: dict[str, Any], *, final: bool) -> None:
        pass

    def before_update(self) -> None:
        pass

    def finish(self) -> None:
        pass
