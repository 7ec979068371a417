"""A rank's way to its node's keeper. Needs no thread of its own; survives a restart of the keeper.

Safe to use from several threads of one process, one question at a time; do not carry one across a fork.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

from jobs.train import wire
from jobs.train.keeper import rank_protocol
from jobs.train.keeper.rank_protocol import Refusal
from jobs.train.keeper.restore import RestorePlan
from jobs.train.keeper.values import PartKey, SnapshotKey
from jobs.train.state.errors import StateError
from orchestrator.spec.errors import ExitCode


class KeeperUnavailableError(StateError):
    """The node's keeper does not answer. Training may go on; this snapshot is lost."""

    def __init__(
        self, problem: str, *, code: ExitCode = ExitCode.UNREACHABLE, where: str = "", next_step: str = ""
    ) -> None:
        super().__init__(problem, code=code, where=where, next_step=next_step)


class KeeperRefusedError(StateError):
    """The keeper will not do it; `refusal` says why."""

    def __init__(
        self,
        problem: str,
        *,
        refusal: Refusal | None = None,
        code: ExitCode = ExitCode.CONFLICT,
        where: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(problem, code=code, where=where, next_step=next_step)
        self.refusal = refusal

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.problem, self.refusal, self.where))


def _rebuild(problem: str, refusal: Refusal | None, where: str) -> KeeperRefusedError:
    return KeeperRefusedError(problem, refusal=refusal, where=where)


class KeeperClient:
    """Asks the keeper behind `socket_path`; connects when first needed.

    `timeout_s` bounds every question but those that say how long they may wait. Mappings of segments are kept: writing
    into a mapped segment costs a tenth of the first touch.
    """

    def __init__(self, socket_path: str, *, timeout_s: float) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._lines: BinaryIO | None = None
        self._maps: dict[str, mmap.mmap] = {}

    def alloc(self, key: PartKey, nbytes: int, *, final: bool = False, wait_s: float = 0.0) -> memoryview:
        """Shared memory of `nbytes` for the part, to be written and then sealed.

        `final`: the attempt ends with this snapshot, so older ones give way, and the keeper may wait up to `wait_s` for
        room. Raises: KeeperUnavailableError, KeeperRefusedError.
        """
        question = {"op": "alloc", "key": _plain(key), "nbytes": nbytes, "final": final, "wait_s": wait_s}
        answer = self._ask(question, self._timeout_s + wait_s)
        return self._map(str(answer["path"]), nbytes)[:nbytes]

    def seal(self, key: PartKey, entry: Mapping[str, Any], header: Mapping[str, Any] | None) -> None:
        """The part is written: `entry` is its entry in the manifest, `header` (rank 0 only) the manifest's rest.

        Raises: KeeperUnavailableError, KeeperRefusedError.
        """
        self._ask({"op": "seal", "key": _plain(key), "entry": dict(entry), "header": header and dict(header)})

    def abort(self, key: PartKey) -> None:
        """The part will not be written; the snapshot will never be complete."""
        self._ask({"op": "abort", "key": _plain(key)})

    def reserve(self, key: PartKey, nbytes: int, count: int) -> None:
        """Have `count` more segments of `nbytes` ready. Raises: KeeperUnavailableError, KeeperRefusedError."""
        self._ask({"op": "reserve", "key": _plain(key), "nbytes": nbytes, "count": count})

    def locate(self, key: PartKey) -> str | None:
        """Path of a sealed part that this node holds."""
        path = self._ask({"op": "locate", "key": _plain(key)})["path"]
        return None if path is None else str(path)

    def restore_plan(self, run: str, *, storage_step: int | None, refused: tuple[SnapshotKey, ...] = ()) -> RestorePlan:
        """From where to continue, gathered from all keepers of the run. Raises: KeeperUnavailableError."""
        question = {"op": "restore", "run": run, "storage_step": storage_step, "refused": [_plain(k) for k in refused]}
        return wire.load(RestorePlan, self._ask(question)["plan"])

    def peers(self) -> dict[str, Any]:
        """How to reach other nodes' keepers: `node` (this one), `addresses`, and `token_path`."""
        return self._ask({"op": "peers"})

    def close(self) -> None:
        """Hang up. What was allocated and not sealed is given up by the keeper."""
        with self._lock:
            self._hang_up()

    def _ask(self, question: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        line = rank_protocol.encode(question)
        with self._lock:
            # A keeper that restarted has closed the old connection: one more try on a new one. No question does harm
            # when it is asked twice.
            for last_try in (False, True) if self._sock else (True,):
                try:
                    answer = self._exchange(line, timeout_s or self._timeout_s)
                    break
                except (OSError, ValueError) as error:
                    self._hang_up()
                    if last_try:
                        raise KeeperUnavailableError(
                            f"the node's keeper does not answer ({error or type(error).__name__})", where=self._path
                        ) from error
        if not answer.get("ok"):
            refusal = Refusal(answer["error"])
            raise KeeperRefusedError(str(answer["detail"]), refusal=refusal, where=self._path)
        return answer

    def _exchange(self, line: bytes, timeout_s: float) -> dict[str, Any]:
        if self._sock is None or self._lines is None:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sock.settimeout(timeout_s)
            self._sock.connect(self._path)
            self._lines = self._sock.makefile("rb")
        self._sock.settimeout(timeout_s)
        self._sock.sendall(line)
        return rank_protocol.decode(self._lines.readline(rank_protocol.MAX_LINE_BYTES))

    def _hang_up(self) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._sock is not None:
            self._sock.close()
        self._sock = self._lines = None

    def _map(self, path: str, nbytes: int) -> memoryview:
        # A mapping of a removed segment would hold its memory, which the keeper no longer counts.
        self._maps = {known: mapped for known, mapped in self._maps.items() if os.path.exists(known)}
        if path not in self._maps or len(self._maps[path]) < nbytes:
            self._maps[path] = _map_populated(path, nbytes)
        return memoryview(self._maps[path])


def _map_populated(path: str, nbytes: int) -> mmap.mmap:
    """Map as much of a segment as is needed with all its pages at once: a third of the price of faulting them in while
    copying. The rest of its last 2 MiB would take a small part's rank 13 ms, where its own page takes none."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        return mmap.mmap(fd, max(1, nbytes), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(fd)


def _plain(key: PartKey | SnapshotKey) -> Any:
    return wire.dump(key).decode()
