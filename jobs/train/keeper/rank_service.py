"""What a keeper does for the ranks of its node; free of sockets, so that tests ask it directly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jobs.train import wire
from jobs.train.keeper.judge import Pressure
from jobs.train.keeper.rank_protocol import Refusal
from jobs.train.keeper.restore import RestorePlan
from jobs.train.keeper.runs import Runs, UnknownRunError
from jobs.train.keeper.segments import NoRoomError
from jobs.train.keeper.store import PartConflictError, PartStore
from jobs.train.keeper.values import PartKey, PartMeta, SnapshotKey

# A waiting allocation looks again at least this often, whatever it was notified of.
_LOOK_AGAIN_S = 1.0


class RefusedError(Exception):
    """The answer is no."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail


class RankService:
    """Answers one question at a time per caller; callers are told apart by their `owner` object."""

    def __init__(
        self,
        store: PartStore,
        runs: Runs,
        *,
        plan_restore: Callable[[str, int | None, tuple[SnapshotKey, ...]], RestorePlan],
        peers: Callable[[], dict[str, Any]],
        news: Callable[[], None],
    ) -> None:
        self._store = store
        self._runs = runs
        self._plan_restore = plan_restore
        self._peers = peers
        self._news = news

    def answer(self, question: dict[str, Any], owner: object) -> dict[str, Any]:
        """The answer to one question, refusals included."""
        try:
            return {"ok": True, **self._answer(question, owner)}
        except RefusedError as refused:
            return {"ok": False, "error": refused.refusal, "detail": refused.detail}
        except (KeyError, TypeError, ValueError) as error:
            return {"ok": False, "error": Refusal.MALFORMED, "detail": f"{question.get('op')!r}: {error}"}

    def gone(self, owner: object) -> None:
        """The caller is gone: what it was writing is given up."""
        self._store.abort_owned(owner)

    def _answer(self, question: dict[str, Any], owner: object) -> dict[str, Any]:
        op = question["op"]
        if op == "alloc":
            key = self._current(question)
            wait_s = float(question["wait_s"])
            return {"path": self.alloc(key, int(question["nbytes"]), owner, final=question["final"], wait_s=wait_s)}
        if op == "seal":
            self.seal(self._current(question), question["entry"], question["header"], owner)
        elif op == "abort":
            self._skip(self._current(question).snapshot)
        elif op == "reserve":
            self._current(question)
            self.reserve(int(question["nbytes"]), int(question["count"]))
        elif op == "locate":
            part = self._store.get(wire.load(PartKey, question["key"]))
            return {"path": str(part.segment.path) if part else None}
        elif op == "restore":
            refused = tuple(wire.load(SnapshotKey, key) for key in question["refused"])
            plan = self._plan_restore(str(question["run"]), question["storage_step"], refused)
            return {"plan": wire.dump(plan).decode()}
        elif op == "peers":
            return self._peers()
        else:
            raise RefusedError(Refusal.MALFORMED, f"unknown question {op!r}")
        return {}

    def alloc(self, key: PartKey, nbytes: int, owner: object, *, final: bool, wait_s: float) -> str:
        """Path of a segment for the part. Raises: RefusedError; a snapshot that finds no room is skipped for good."""
        deadline_s = time.monotonic() + wait_s
        pressure = Pressure.FINAL if final else Pressure.NONE
        while True:
            try:
                return self._try_alloc(key, nbytes, owner, pressure)
            except NoRoomError as error:
                left_s = deadline_s - time.monotonic()
                if left_s > 0:
                    with self._runs.changed:
                        self._runs.changed.wait(min(left_s, _LOOK_AGAIN_S))
                elif pressure is Pressure.FINAL:
                    pressure = Pressure.LAST_RESORT
                else:
                    self._skip(key.snapshot)
                    detail = f"step {key.snapshot.step} is not kept: {error}; older snapshots are not safe yet"
                    raise RefusedError(Refusal.NO_ROOM, detail) from error

    def _try_alloc(self, key: PartKey, nbytes: int, owner: object, pressure: Pressure) -> str:
        try:
            segment = self._store.alloc(
                key, nbytes, owner, make_room=lambda: self._runs.droppable(key.snapshot, pressure)
            )
        except PartConflictError as error:
            raise RefusedError(Refusal.CONFLICT, str(error)) from error
        return str(segment.path)

    def seal(self, key: PartKey, entry: dict[str, Any], header: dict[str, Any] | None, owner: object) -> None:
        """The part is written. Raises: RefusedError."""
        try:
            self._store.seal(PartMeta(key=key, origin=self._runs.node, entry=entry, header=header), owner)
        except PartConflictError as error:
            raise RefusedError(Refusal.CONFLICT, str(error)) from error
        self._news()

    def reserve(self, nbytes: int, count: int) -> None:
        """Have segments ready, pages and all. Raises: RefusedError."""
        try:
            self._store.reserve(nbytes, count)
        except NoRoomError as error:
            raise RefusedError(Refusal.NO_ROOM, str(error)) from error

    def _skip(self, key: SnapshotKey) -> None:
        self._runs.skip(key)
        self._news()

    def _current(self, question: dict[str, Any]) -> PartKey:
        """The part that the question is about. Raises: RefusedError if it is not one of the attempt under way."""
        key = wire.load(PartKey, question["key"])
        try:
            with self._runs.changed:
                run = self._runs.find(key.snapshot.run, key.snapshot.attempt)
                skipped = key.snapshot in run.skipped
                world_size = run.plan.world_size
        except UnknownRunError as error:
            raise RefusedError(Refusal.UNKNOWN_RUN, str(error)) from error
        if world_size != key.snapshot.world_size:
            raise RefusedError(Refusal.CONFLICT, f"world size {key.snapshot.world_size}; the attempt has {world_size}")
        if skipped and question["op"] != "abort":
            raise RefusedError(Refusal.NO_ROOM, f"step {key.snapshot.step} is skipped: another rank found no room")
        return key
