"""A terminal that a command beside a rank sits at: a pseudo-terminal pair, its size, and all that it has started there.

Free of Ray. A shell at a terminal puts what it starts into groups of their own; they share the session.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from dataclasses import dataclass
from pathlib import Path

END_OF_INPUT = b"\x04"
"""What a terminal takes for the end of input at the begin of a line."""
_ROUNDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """In characters."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """`kind` is what programs find in TERM."""

    kind: str
    size: Size


def open_terminal(size: Size) -> tuple[int, int]:
    """Our end and the command's, as file descriptors that no other process inherits by itself. Raises: OSError."""
    ours, theirs = os.openpty()
    set_size(ours, size)
    return ours, theirs


def set_size(descriptor: int, size: Size) -> None:
    """Give a terminal another size; who sits in its foreground is told (SIGWINCH)."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


def kill_session(leader: int) -> None:
    """Kill every process of a session, its leader's group first. The leader may have ended, but must not have been
    reaped: its number would be somebody else's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    for _ in range(_ROUNDS):  # what is killed may just have started another
        members = _members(leader)
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not members:
            return


def _members(leader: int) -> list[int]:
    """Live processes of a session, its leader left out."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and int(path.name) != leader:
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    found.append(int(path.name))
    return found
