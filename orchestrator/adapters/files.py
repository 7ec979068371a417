"""Small files by which processes that may die at any moment talk: whole or not at all, and locks that die with them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

# Whoever only looks whether a lock is held takes it for a moment; a holder to be tries again.
_TRIES, _BETWEEN_S = 20, 0.05


def write_json(path: Path, value: Any) -> None:
    """Replace a file in one rename; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """What was written last; None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def hold_lock(path: Path, stack: contextlib.ExitStack) -> bool:
    """Hold a lock until `stack` closes or this process ends, however it ends; False if somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(os.close, handle)
            return True
        time.sleep(_BETWEEN_S)
    os.close(handle)
    return False


def is_held(path: Path) -> bool:
    """Whether a process that lives holds this lock."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
