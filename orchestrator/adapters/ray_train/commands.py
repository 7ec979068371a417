"""Commands that people run beside ranks on this node: started, spoken to, and ended. Free of Ray.

A command belongs to the rank that it was started beside: when that rank goes, so does the command, because the devices
may be somebody else's from then on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.adapters.ray_train.roster import Roster
from orchestrator.adapters.ray_train.stacks import RankProcess, is_rank
from orchestrator.adapters.ray_train.terminal import (
    END_OF_INPUT,
    Size,
    Terminal,
    kill_session,
    open_terminal,
    set_size,
)
from orchestrator.spec.errors import ExitCode, UserError

MOST_BYTES = 1 << 20
"""Output that nobody has taken yet, and input that the command has not read yet: more waits."""
MOST_COMMANDS = 8
"""At a time on one node of a run."""
_CHUNK_BYTES = 1 << 16
_LAST_OUTPUT_S = 1.0
_START_S = 30.0
_MORTAL = Path(__file__).with_name("mortal.py")
STDOUT, STDERR = 1, 2
_Started = tuple["subprocess.Popen[bytes]", tuple[tuple[IO[bytes], int], ...], IO[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of output; `number` counts up from 1 over both streams of a command."""

    number: int
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a command has said since; `code` once it has ended and nothing comes after these chunks: its exit code,
    128 + the signal that ended it. `why` it was ended, where that was not its own doing."""

    chunks: tuple[Chunk, ...]
    code: int | None = None
    why: str = ""


class Command:
    """One process with three pipes, or at a terminal, in a session of its own. Safe from any thread."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, terminal: Terminal | None = None
    ) -> None:
        self._command, self._environment, self._folder = tuple(command), dict(environment), folder
        self._terminal = terminal
        self._screen: int | None = None
        self._changed = threading.Condition()
        self._output: deque[Chunk] = deque()
        self._input: deque[bytes | None] = deque()
        self._number = 0
        self._code: int | None = None
        self._why = ""
        self._is_mine = True
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble: OSError | None = None
        # The kernel ends the command with the thread that started it, so that this one lives as long as it does.
        threading.Thread(target=self._run, name="command", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self._trouble is not None, _START_S)
        if self._trouble is not None:
            raise self._trouble

    def hear(self, taken: int, wait_s: float) -> Heard:
        """Output after chunk `taken`, waiting for some if need be; what was taken is forgotten."""
        with self._changed:
            while self._output and self._output[0].number <= taken:
                self._output.popleft()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._output or self._code is not None, wait_s)
            return Heard(chunks=tuple(self._output), code=self._code, why=self._why)

    def tell(self, data: bytes, *, end: bool, size: Size | None = None) -> bool:
        """Input, its end, or another size of its terminal. False: the command has not read what it was told before;
        try again later."""
        with self._changed:
            if size is not None and self._screen is not None:
                set_size(self._screen, size)
            if sum(len(one) for one in self._input if one is not None) >= MOST_BYTES:
                return False
            if data:
                self._input.append(data)
            if end:
                self._input.append(None)
            self._changed.notify_all()
            return True

    def end(self, why: str) -> None:
        """Kill it and all that it has started in its session; nothing if it has ended."""
        with self._changed:
            if self._code is not None or self._process is None:
                return
            self._why = self._why or why
            self._changed.notify_all()
            if self._is_mine:
                kill_session(self._process.pid)

    def _run(self) -> None:
        try:
            process, said, told = self._with_pipes() if self._terminal is None else self._at_terminal(self._terminal)
        except OSError as error:
            with self._changed:
                self._trouble = error
                self._changed.notify_all()
            return
        readers = [threading.Thread(target=self._read, args=one, daemon=True) for one in said]
        for thread in (*readers, threading.Thread(target=self._write, args=(told,), daemon=True)):
            thread.start()
        with self._changed:
            self._process = process
            self._changed.notify_all()
        # Not reaped yet: its number is nobody else's, and what it has left running ends with it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._changed:
            self._is_mine = False
        kill_session(process.pid)
        code = process.wait()
        # A process that has left the group may hold the output open: that is not waited for.
        until_s = time.monotonic() + _LAST_OUTPUT_S
        for thread in readers:
            self._join(thread, until_s)
        with self._changed:
            self._code = 128 - code if code < 0 else code
            self._changed.notify_all()

    def _with_pipes(self) -> _Started:
        pipe = subprocess.PIPE
        process = self._popen(pipe, pipe, pipe, self._environment)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018
        return process, ((process.stdout, STDOUT), (process.stderr, STDERR)), process.stdin

    def _at_terminal(self, terminal: Terminal) -> _Started:
        ours, theirs = open_terminal(terminal.size)
        try:
            process = self._popen(theirs, theirs, theirs, {**self._environment, "TERM": terminal.kind})
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        told = open(os.dup(ours), "wb", buffering=0)  # noqa: SIM115 - whoever writes closes it
        with self._changed:
            self._screen = ours
        return process, ((open(ours, "rb", buffering=0), STDOUT),), told

    def _popen(self, stdin: int, stdout: int, stderr: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-I", "-S", str(_MORTAL), str(os.getpid()), *self._command]
        return subprocess.Popen(
            line, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=self._folder, start_new_session=True
        )

    def _join(self, thread: threading.Thread, until_s: float) -> None:
        """Wait for a reader; one that waits for somebody to take its output has all the time in the world."""
        while thread.is_alive() and (time.monotonic() < until_s or self._is_full()):
            thread.join(0.05)

    def _is_full(self) -> bool:
        with self._changed:
            return not self._why and self._kept_bytes() >= MOST_BYTES

    def _read(self, file: IO[bytes], stream: int) -> None:
        with file:
            while data := _piece(file):
                with self._changed:
                    self._changed.wait_for(lambda: self._why or self._kept_bytes() < MOST_BYTES)
                    self._number += 1
                    self._output.append(Chunk(number=self._number, stream=stream, data=data))
                    self._changed.notify_all()
            with self._changed:
                # Closed in a moment: its number may be another file's then.
                self._screen = None

    def _kept_bytes(self) -> int:
        return sum(len(one.data) for one in self._output)

    def _write(self, file: IO[bytes]) -> None:
        # A terminal whose command has gone fails otherwise than a pipe does.
        with contextlib.suppress(BrokenPipeError if self._terminal is None else OSError), file:
            while (data := self._next_input()) is not None:
                _write_all(file, data)
                with self._changed:
                    self._input.popleft()
            if self._terminal is not None:
                _write_all(file, END_OF_INPUT)

    def _next_input(self) -> bytes | None:
        """What is to be written now, waiting for it; None: nothing follows."""
        with self._changed:
            self._changed.wait_for(lambda: self._input or self._code is not None)
            return self._input[0] if self._input else None


def _piece(file: IO[bytes]) -> bytes:
    """Some output; nothing at its end, which a terminal tells by an error."""
    try:
        return os.read(file.fileno(), _CHUNK_BYTES)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _write_all(file: IO[bytes], data: bytes) -> None:
    """A terminal takes some at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(file.fileno(), left) :]


class Commands:
    """The commands of a run's session on one node."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._lock = threading.Lock()
        self._running: dict[str, tuple[RankProcess, Command]] = {}

    def begin(self, rank: int, command: Sequence[str], terminal: Terminal | None = None) -> str:
        """Start a command beside a rank, at a terminal of its own if need be; what it is called from now on.

        Raises: UserError: the rank is not here (unknown), or too many run already (conflict).
        """
        process = self._roster.find(rank)
        with self._lock:
            if len(self._running) >= MOST_COMMANDS:
                problem = f"{len(self._running)} commands run on this node already; {MOST_COMMANDS} may"
                raise UserError(problem, code=ExitCode.CONFLICT, next_step="End one of them first")
            environment, folder = surroundings_of(process)
            try:
                started = Command(command, environment, folder, terminal)
            except OSError as error:
                raise UserError(f"the command cannot be started: {error.strerror}") from None
            name = secrets.token_hex(8)
            self._running[name] = (process, started)
            return name

    def find(self, name: str) -> Command:
        """The command of that name; it is ended if its rank is no more, whoever should have said so.

        Raises: UserError (unknown) once it has been let go.
        """
        with self._lock:
            found = self._running.get(name)
        if found is None:
            raise UserError("the command is not there any more", code=ExitCode.UNKNOWN)
        beside, command = found
        if not is_rank(beside):
            command.end(f"rank {beside.rank} has ended")
        return command

    def let_go(self, name: str) -> None:
        """End a command if it runs, and forget it."""
        with self._lock:
            found = self._running.pop(name, None)
        if found is not None:
            found[1].end("let go")

    def rank_left(self, rank: int) -> None:
        """End the commands beside a rank; whoever listens is told."""
        with self._lock:
            ended = [command for beside, command in self._running.values() if beside.rank == rank]
        for command in ended:
            command.end(f"rank {rank} has left this node")

    def close(self) -> None:
        """End all of them."""
        for name in list(self._running):
            self.let_go(name)


def surroundings_of(process: RankProcess) -> tuple[dict[str, str], str]:
    """The environment and the folder that a rank runs in. Raises: UserError (conflict) if it has just ended, or begins
    to be one."""
    try:
        if not is_rank(process):
            raise ProcessLookupError(None, "its process is not a rank")
        raw = Path(f"/proc/{process.pid}/environ").read_bytes()
        folder = os.readlink(f"/proc/{process.pid}/cwd")
    except OSError as error:
        problem = f"rank {process.rank} has just ended or starts ({error.strerror})"
        raise UserError(problem, code=ExitCode.CONFLICT, next_step="Try again once the job runs") from None
    pairs = (item.split(b"=", 1) for item in raw.split(b"\0") if b"=" in item)
    began_with = {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}
    return {**began_with, **process.env}, folder
