"""A node's keeper inside its agent: memory limit, peers by address, storage opened only when a flush needs it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.train.keeper.flushing import CheckpointStorage
from jobs.train.keeper.folder import default_folder
from jobs.train.keeper.keeper import Keeper, KeeperConfig, RunStatus
from jobs.train.keeper.memory import Space, space
from jobs.train.keeper.mirror import Retry
from jobs.train.keeper.socket_transport import PeerServer, SocketTransport
from jobs.train.keeper.state_storage import StateStorage
from jobs.train.keeper.values import AttemptPlan, Inventory
from jobs.train.state.errors import StorageError
from jobs.train.state.open_storage import open_storage, require_marker

# Shared memory also holds Ray's object store and the user's own; snapshots never take more than this part of it.
LIMIT_SHARE = 0.8
PEER_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 600.0
FLUSH_RETRY_S = 5.0
RETRY = Retry(first_s=0.2, most_s=5.0)
STREAMS = 2
YOUNG_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperFacts:
    """Where ranks of this node and keepers of other nodes reach this one, and how much it may hold.

    `space` is as it was found when the keeper began.
    """

    socket_path: str
    address: str
    limit_bytes: int
    space: Space


class KeeperHost:
    """Starts one keeper and its peer server; `close` removes everything it held."""

    def __init__(self, node: str, name: str, host: str, token: bytes, limit_bytes: int | None) -> None:
        folder = default_folder(name)
        sweep(folder.parent)
        self.folder = folder
        self._node = node
        self._token = token
        self._stack = contextlib.ExitStack()
        self._listening = threading.Lock()
        self._heard = 0
        self._transport = SocketTransport(token, {}, timeout_s=PEER_TIMEOUT_S)
        self._stack.callback(self._transport.close)
        self._space = space(folder.parent)
        self._limit_bytes = _limit(self._space, limit_bytes)
        config = KeeperConfig(
            node=node,
            folder=folder,
            limit_bytes=self._limit_bytes,
            mirror_streams=STREAMS,
            mirror_max_bytes_per_s=0.0,
            retry=RETRY,
            flush_timeout_s=FLUSH_TIMEOUT_S,
            flush_retry_s=FLUSH_RETRY_S,
        )
        self._keeper = Keeper(config, self._transport, _open_storage)
        self._stack.callback(self._keeper.close, remove=True)
        self._keeper.start()
        self._server = PeerServer(self._keeper.peer_service, token, f"tcp:{host}:0", timeout_s=PEER_TIMEOUT_S)
        self._server.start()
        self._stack.callback(self._server.close)

    def facts(self) -> KeeperFacts:
        """Addresses; constant for the keeper's life."""
        return KeeperFacts(
            socket_path=self._keeper.socket_path,
            address=self._server.address,
            limit_bytes=self._limit_bytes,
            space=self._space,
        )

    def begin_attempt(self, plan: AttemptPlan, addresses: Mapping[str, str], telling: int) -> None:
        """Learn who the peers are and what the next attempt is; also for a change of peers in its middle.

        `telling` counts up: an older one that comes late, by another thread of the agent, says nothing any more.
        """
        with self._listening:
            if telling <= self._heard:
                return
            self._heard = telling
            self._transport.set_addresses(addresses)
            self._keeper.let_ranks_read_peers(dict(addresses), self._token)
            self._keeper.begin_attempt(plan)

    def inventory(self, run: str) -> Inventory:
        """What this node holds of a run."""
        return self._keeper.inventory(run)

    def note_step(self, run: str, step: int) -> None:
        """Training has completed this many steps."""
        self._keeper.note_step(run, step)

    def status(self, run: str) -> RunStatus | None:
        """How the run stands as this keeper knows it; None if it does not know it."""
        try:
            return self._keeper.status(run)
        except KeyError:
            return None

    def flush(self, run: str, step: int, timeout_s: float) -> bool:
        """On the lead: write the newest complete snapshot to storage now; whether `step` is there in time."""
        self._keeper.flush_now(run)
        return self._keeper.wait_flushed(run, step, timeout_s)

    def marker_trouble(self, url: str, marker: str) -> StorageError | None:
        """What is wrong with this node's view of the storage in which the driver has placed a marker."""
        try:
            require_marker(open_storage(url), marker, self._node[:12])
        except StorageError as error:
            return error
        return None

    def close(self) -> None:
        """Stop and remove what is held."""
        self._stack.close()


def sweep(shared_memory: Path) -> int:
    """Remove folders that keepers of this user left behind when they were killed; how many.

    A living keeper holds its folder's lock; a folder so young that its keeper may not have locked it yet is left alone.
    """
    removed = 0
    for folder in shared_memory.glob(f"tide-{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > YOUNG_S and not _is_locked(folder):
                shutil.rmtree(folder)
                removed += 1
    return removed


def _is_locked(folder: Path) -> bool:
    lock_fd = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock_fd)
    return False


def _limit(found: Space, limit_bytes: int | None) -> int:
    share = int(found.total_bytes * LIMIT_SHARE)
    return share if limit_bytes is None else min(limit_bytes, share)


def _open_storage(url: str) -> CheckpointStorage:
    return StateStorage.open(url)
