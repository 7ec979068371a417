"""The supervisor's side of a stem: ask for a rank, hold it by a connection, learn how it ended."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from jobs.train import forkserver_wire as wire
from jobs.train.config import StartRequest
from jobs.train.rank_handle import PipeHandle, RankPipes
from jobs.train.starters import Exit, StartError

# A stem answers in milliseconds unless the machine swaps.
_ANSWER_TIMEOUT_S = 20.0


class ForkServerStarter:
    """Starts ranks from the stem that listens at `socket_path`."""

    def __init__(self, socket_path: Path | str) -> None:
        self._socket_path = str(socket_path)

    def start(self, request: StartRequest, *, output_fd: int | None = None) -> ForkedHandle:
        """Raises: StartError if there is no stem, it is stuck, or it refuses."""
        with contextlib.ExitStack() as undo:
            pipes = RankPipes.open()
            undo.callback(pipes.close)
            stdout, stderr = (1, 2) if output_fd is None else (output_fd, output_fd)
            try:
                connection = undo.enter_context(wire.connect(self._socket_path))
                connection.settimeout(_ANSWER_TIMEOUT_S)
                wire.send(connection, {"op": "fork"}, (stdout, stderr, pipes.messages_w, pipes.control_r))
                answer, fds = wire.receive(connection)
            except (wire.StemGoneError, TimeoutError) as error:
                raise StartError(
                    f"no rank from the fork server: {error}. Its launcher restarts it; ask again"
                ) from error
            if "error" in answer or len(fds) != 1:
                raise StartError(f"the fork server refused: {answer.get('error', answer)}")
            undo.pop_all()
        pipes.close_child_ends()
        return ForkedHandle(request, answer["pid"], fds[0], pipes, connection)


class ForkedHandle(PipeHandle):
    """A rank forked from a stem; closing the connection kills it."""

    def __init__(
        self, request: StartRequest, pid: int, pidfd: int, pipes: RankPipes, connection: socket.socket
    ) -> None:
        self._connection = connection
        super().__init__(request, pid, pidfd, pipes)

    def _reap(self) -> Exit:
        """Only the stem, its parent, can know the status; without the stem nobody does."""
        try:
            answer, _ = wire.receive(self._connection)
        except (wire.StemGoneError, TimeoutError):
            return Exit(None, None)
        return Exit(answer.get("code"), answer.get("signal"))

    def close(self) -> None:
        super().close()
        self._connection.close()


def stem_status(socket_path: Path | str) -> dict[str, object]:
    """What the stem says of itself: pid, pids of its ranks, number of threads. Raises: StemGoneError."""
    with wire.connect(str(socket_path)) as connection:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        wire.send(connection, {"op": "status"})
        answer, _ = wire.receive(connection)
    return {**answer, "private_bytes": private_bytes(int(answer["pid"]))}


def private_bytes(pid: int) -> int:
    """Memory of a process that no other process shares, from /proc/PID/smaps_rollup; 0 if it is gone."""
    return sum(memory_of(pid).get(key, 0) for key in ("Private_Clean", "Private_Dirty"))


def memory_of(pid: int) -> dict[str, int]:
    """`Rss`, `Pss`, `Private_Dirty` and so on of a process, in bytes; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            lines = [line.split() for line in rollup if line.endswith("kB\n")]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}


def pid_alive(pid: int) -> bool:
    """Whether a process of this number runs (zombies do not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X") and os.path.exists(f"/proc/{pid}")
