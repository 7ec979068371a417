"""Where a run's state is and where the next attempt takes it from: keepers, storage, and the driver's news of both."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ray
import structlog

from jobs.train.config import RestoreFrom
from jobs.train.keeper.judge import Choice, Source
from jobs.train.keeper.keeper import RunStatus
from jobs.train.state.checkpoints import latest, manifest_file
from jobs.train.state.errors import StorageError
from jobs.train.state.manifest import Manifest
from jobs.train.state.open_storage import open_storage, place_marker, remove_marker
from orchestrator.adapters.ray_train.domains import read_domains
from orchestrator.adapters.ray_train.events import CheckpointSaved, Event, SnapshotSafe
from orchestrator.adapters.ray_train.fleet import Fleet
from orchestrator.adapters.ray_train.keeper_host import KeeperFacts

log = structlog.get_logger(__name__)

ASK_EVERY_S = 1.0
# While nodes of the running group are about to go, it matters when the state is safe on others.
ASK_EVERY_HURRIED_S = 0.2
FLUSH_S = 300.0


class RunState:
    """One session's view of its run's state. Blocks only between attempts, when nothing trains."""

    def __init__(
        self,
        run: str,
        fleet: Fleet,
        *,
        storage_url: str,
        every_s: float,
        keep: int,
        require_room: Callable[[int, Mapping[str, KeeperFacts]], None] = lambda world_size, keepers: None,
        domains: Callable[[], Mapping[str, str]] = read_domains,
    ) -> None:
        self._domains = domains
        self._require_room = require_room
        self._run = run
        self._fleet = fleet
        self._storage_url = storage_url
        self._every_s = every_s
        self._keep = keep
        self._choice: Choice | None = None
        self._committed: int | None = None
        self._committed_at_s = time.monotonic()
        self._safe = -1
        self._asked_at_s = self._noted_at_s = 0.0
        self._status: Any = None
        self._is_hurried = False
        self._attempt = 0
        self._world_size = 0
        self._begun = False

    def restore_point(self) -> RestoreFrom | None:
        """The newest whole state there is; None when the run has none yet.

        Raises: StorageError if storage cannot be asked and no keeper has a state: starting again would be wrong.
        """
        newest, trouble = self._newest_stored()
        if trouble is None:
            self._committed = newest.step if newest else None
        self._choice = self._fleet.newest(newest.step if newest else None)
        if trouble is not None and (self._choice is None or self._choice.source is not Source.KEEPERS):
            raise trouble
        if self._choice is not None:
            log.info("restore point", detail=self._choice.detail)
            if self._choice.source is Source.NOTHING:
                return None
            return RestoreFrom(step=self._choice.step, keepers=self._choice.source is Source.KEEPERS)
        return RestoreFrom(step=newest.step, keepers=False) if newest else None

    def _newest_stored(self) -> tuple[Manifest | None, StorageError | None]:
        try:
            return latest(open_storage(self._storage_url), self._run), None
        except StorageError as error:
            log.warning("storage cannot be asked for checkpoints", error=str(error))
            return None, error

    def begin(self, attempt: int, world_size: int, leaving: Collection[str], members: Collection[str] = ()) -> None:
        """Tell the keepers what begins, and wait for those of `members`; call after `restore_point`.

        Raises: before this session's first attempt, UserError if it would not fit into the keepers' memory, and
        StorageError if storage cannot be written or is not the same on every node. Later attempts go on: a snapshot
        that finds no room, or a checkpoint that cannot be written, is left out and said.
        """
        if not self._begun:
            self._require_shared_storage()
            self._require_room(world_size, self._fleet.keepers())
            self._begun = True
        self._attempt, self._world_size = attempt, world_size
        self._is_hurried = False
        self._tell(leaving, members)

    def _require_shared_storage(self) -> None:
        storage = open_storage(self._storage_url)
        marker = place_marker(storage)
        try:
            trouble = self._fleet.marker_trouble(self._storage_url, marker)
        finally:
            with contextlib.suppress(StorageError):  # a small file that nobody looks for again
                remove_marker(storage, marker)
        if trouble is not None:
            raise trouble

    def tell(self, leaving: Collection[str]) -> None:
        """Tell the keepers again, when nodes come or are about to go in the middle of an attempt. Never blocks."""
        self._is_hurried = bool(leaving)
        self._tell(leaving, ())

    def _tell(self, leaving: Collection[str], members: Collection[str]) -> None:
        since_s = time.monotonic() - self._committed_at_s
        self._fleet.begin_attempt(
            self._attempt,
            self._world_size,
            members=members,
            leaving=leaving,
            choice=self._choice,
            storage_url=self._storage_url,
            checkpoint_every_s=self._every_s,
            first_checkpoint_in_s=max(0.0, self._every_s - since_s),
            committed_step=self._committed,
            keep_checkpoints=self._keep,
            domains=self._domains(),
        )

    def secure(self, step: int, give_up: Callable[[], bool]) -> bool:
        """Bring the newest whole state, of `step` or later (0: whatever the keepers have), to storage before the
        session's keepers may end; whether it is there. Blocks until then, or until `give_up`."""
        if not step:
            newest, _ = self._newest_stored()
            held = self._fleet.newest(newest.step if newest else None)
            if held is not None and held.source is not Source.KEEPERS:
                return True  # nothing that storage has not: waiting for it would be in vain
            step = held.step if held is not None else step
        flushing = self._fleet.flush(step, FLUSH_S)
        if flushing is None:
            return True
        while not ray.wait([flushing], timeout=0.2)[0]:
            if give_up():
                return False
        try:
            return bool(ray.get(flushing))
        except ray.exceptions.RayError as error:
            log.warning("the keepers could not write the state to storage", error=str(error))
            return False

    def news(self, step: int, at_s: float) -> Iterator[Event]:
        """Tell the keepers how far training is, and what they have achieved since. Never blocks."""
        now_s = time.monotonic()
        if now_s - self._noted_at_s >= ASK_EVERY_S:  # to every node, so never more often
            self._noted_at_s = now_s
            self._fleet.note_step(step)
        every_s = ASK_EVERY_HURRIED_S if self._is_hurried else ASK_EVERY_S
        if self._status is None and now_s - self._asked_at_s >= every_s:
            self._asked_at_s = now_s
            self._status = self._fleet.ask_status()
        if self._status is None:
            return
        done, _ = ray.wait([self._status], timeout=0)
        if not done:
            return
        ref, self._status = self._status, None
        try:
            status: RunStatus | None = ray.get(ref)
        except ray.exceptions.RayError:
            return
        if status is not None:
            yield from self._compare(status, at_s)

    def committed(self, at_s: float) -> Iterator[Event]:
        """The newest checkpoint in storage, if it has not been told yet."""
        newest, _ = self._newest_stored()
        if newest is not None and newest.step != self._committed:
            yield self._saved(newest.step, at_s)

    def _compare(self, status: RunStatus, at_s: float) -> Iterator[Event]:
        if status.safe > self._safe:
            self._safe = status.safe
            yield SnapshotSafe(at_s=at_s, attempt=self._attempt, step=status.safe, lag_steps=status.lag.most_steps)
        if status.committed > (self._committed if self._committed is not None else -1):
            yield self._saved(status.committed, at_s)

    def _saved(self, step: int, at_s: float) -> CheckpointSaved:
        self._committed, self._committed_at_s = step, time.monotonic()
        return CheckpointSaved(at_s=at_s, attempt=self._attempt, step=step, path=manifest_file(self._run, step))
