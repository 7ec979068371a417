"""A real keeper in the test's own process, for ranks to leave their snapshots with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jobs.train.keeper.keeper import Keeper, KeeperConfig
from jobs.train.keeper.mirror import Retry
from jobs.train.keeper.socket_transport import SocketTransport
from jobs.train.keeper.state_storage import StateStorage
from jobs.train.keeper.values import AttemptPlan

NODE = "here"


@contextlib.contextmanager
def keeper(folder: Path, limit_bytes: int = 2**28) -> Iterator[Keeper]:
    """One keeper without peers, its segments in `folder`."""
    config = KeeperConfig(
        node=NODE,
        folder=folder,
        limit_bytes=limit_bytes,
        mirror_streams=1,
        mirror_max_bytes_per_s=0.0,
        retry=Retry(first_s=0.05, most_s=1.0),
        flush_timeout_s=30.0,
        flush_retry_s=0.1,
    )
    running = Keeper(config, SocketTransport(b"", {}, timeout_s=5.0), StateStorage.open)
    running.start()
    try:
        yield running
    finally:
        running.close(remove=True)


def begin(running: Keeper, attempt: int, world_size: int, storage_url: str = "") -> None:
    """Tell the keeper of an attempt of the run "test", which continues from whatever earlier ones have left."""
    held = {part.key.snapshot for part in running.inventory("test").held}
    running.begin_attempt(
        AttemptPlan(
            run="test",
            attempt=attempt,
            world_size=world_size,
            nodes=(NODE,),
            lead=NODE,
            mirrors={},
            kept=tuple(sorted(held)),
            storage_url=storage_url,
        )
    )
