"""Where a rank's state goes to and comes from, by what its job names: the node's keeper, storage, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.groups import Groups, all_succeed, share_text
from jobs.train.host_names import names_from_hosts_file
from jobs.train.keeper.client import KeeperClient
from jobs.train.keeper.sink import KeeperSink
from jobs.train.keeper.states import KeeperStates
from jobs.train.restoring import StateSource, StorageSource
from jobs.train.saving import SnapshotSink
from jobs.train.state.open_storage import open_storage
from jobs.train.state.storage import Storage
from jobs.train.storage_sink import StorageSink

# A keeper on this node answers in milliseconds, one on another node in as many round trips; neither may hang a rank.
_KEEPER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`sink` None: nothing is saved; `source` None: there is nothing to restore from."""

    sink: SnapshotSink | None
    source: StateSource | None


def places_of(request: StartRequest, groups: Groups, channel: Channel) -> Places:
    """Raises: StorageError for a storage URL that means none."""
    job = request.job
    storage = open_storage(job.storage_url) if job.storage_url else None
    stored = StorageSource(storage, agree=lambda good: all_succeed(good, groups.small)) if storage else None
    if job.keeper_socket:
        return _with_keeper(request, groups, storage, stored)
    if storage is None:
        return Places(sink=None, source=None)
    with names_from_hosts_file():
        store = groups.store.clone()
    sink = StorageSink(storage, store, request.rank, request.world_size, channel.send)
    return Places(sink=sink, source=stored)


def _with_keeper(
    request: StartRequest, groups: Groups, storage: Storage | None, stored: StorageSource | None
) -> Places:
    job = request.job
    client = KeeperClient(job.keeper_socket, timeout_s=_KEEPER_TIMEOUT_S)
    sink = KeeperSink(
        client,
        run=job.run_id,
        attempt=job.attempt,
        rank=request.rank,
        world_size=request.world_size,
        # Ranks that have their room already wait for this one, and must not take it for hung.
        final_wait_s=job.collective_timeout_s / 2,
    )
    if job.restore is not None and not job.restore.keepers:
        return Places(sink=sink, source=stored)
    source = KeeperStates(
        client,
        rank=request.rank,
        share=lambda text: share_text(text, request.rank, groups.small),
        agree=lambda good: all_succeed(good, groups.small),
        storage=storage,
        fallback=stored,
        timeout_s=_KEEPER_TIMEOUT_S,
    )
    return Places(sink=sink, source=source)


class NoSaving:
    """For a job without storage and keeper: its state ends with it."""

    def save(self, step: int, replicated: dict[str, Any], *, final: bool) -> None:
        pass

    def before_update(self) -> None:
        pass

    def finish(self) -> None:
        pass
