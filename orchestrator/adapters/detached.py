"""Processes that outlive the one that starts them: a session of their own, no input, output into a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def spawn(command: Sequence[str], output: Path, environment: Mapping[str, str]) -> int:
    """Start a program, named by its path; its pid. Nothing of this process is handed on but the environment given."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], list(command), dict(environment), file_actions=files, setsid=True)


def reap(pid: int) -> bool:
    """Take note of the end of one that this process started; whether it has ended, or was somebody else's."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
