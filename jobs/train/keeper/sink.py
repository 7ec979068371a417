"""A rank's snapshots go to its node's keeper: memory from it, the copy into it, a word when it is whole.

Implements `jobs.train.saving.SnapshotSink`; runs in the rank.
"""

from __future__ import annotations

import json
from dataclasses import replace

from jobs.train.keeper.client import KeeperClient, KeeperRefusedError
from jobs.train.keeper.judge import KEPT_COMPLETE
from jobs.train.keeper.values import PartKey, SnapshotKey
from jobs.train.state.manifest import Manifest, Part


class KeeperSink:
    """One rank of one attempt. `final_wait_s`: how long the last snapshot may wait for room.

    `open` costs no page faults once as many segments exist as snapshots are kept; without `prepare`, the first
    snapshot waits for its own and the rest are made ready beside training.
    """

    def __init__(
        self, client: KeeperClient, *, run: str, attempt: int, rank: int, world_size: int, final_wait_s: float
    ) -> None:
        self._client = client
        self._run = run
        self._attempt = attempt
        self._rank = rank
        self._world_size = world_size
        self._final_wait_s = final_wait_s
        self._is_reserved = False
        self._unsealed: PartKey | None = None

    def prepare(self, nbytes: int) -> None:
        """Have the memory of all snapshots ready before the first step, so that not even the first one waits for it.

        Raises: KeeperRefusedError if there is not that much room, KeeperUnavailableError.
        """
        self._client.reserve(self._key(0), nbytes, KEPT_COMPLETE + 1)
        self._is_reserved = True

    def open(self, step: int, nbytes: int, *, final: bool) -> memoryview:
        """Shared memory for this rank's part.

        Raises: KeeperRefusedError (no room: the step is skipped by all ranks), KeeperUnavailableError.
        """
        if self._unsealed is not None:
            # Copying or sealing failed: say so, or others would keep their parts of a snapshot that cannot be.
            self._client.abort(self._unsealed)
            self._unsealed = None
        wait_s = self._final_wait_s if final else 0.0
        key = self._key(step)
        buffer = self._client.alloc(key, nbytes, final=final, wait_s=wait_s)
        self._unsealed = key
        return buffer

    def seal(self, part: Part, manifest: Manifest) -> None:
        """The part is in its place. Raises: KeeperRefusedError, KeeperUnavailableError."""
        header = json.loads(replace(manifest, parts=()).to_bytes()) if self._rank == 0 else None
        self._client.seal(self._key(manifest.step), part.to_json(), header)
        self._unsealed = None
        if not self._is_reserved:
            self._is_reserved = True
            self._reserve(manifest.step, part.nbytes)

    def _reserve(self, step: int, nbytes: int) -> None:
        try:
            self._client.reserve(self._key(step), nbytes, KEPT_COMPLETE)
        except KeeperRefusedError:
            # Less room than snapshots are kept in: the next `open` says so, and to somebody who can report it.
            return

    def _key(self, step: int) -> PartKey:
        snapshot = SnapshotKey(run=self._run, step=step, attempt=self._attempt, world_size=self._world_size)
        return PartKey(snapshot=snapshot, rank=self._rank)
