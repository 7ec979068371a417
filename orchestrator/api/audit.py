"""Who asked for what, and what was refused: one JSON line a request that changes something or is not allowed.

Never holds a key, a header or a body. What was changed stands in the ledger's events with the same actor.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

_MAX_FILE_BYTES = 32 * 2**20
_KEPT_FILES = 8


class AuditLog:
    """A file of lines, readable by its owner alone; a full one becomes FILE.1, and so on. None: nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._size = 0
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open(path)

    def write(self, **fields: object) -> None:
        """Add a line."""
        if self._path is None or self._handle is None:
            return
        line = json.dumps(fields, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            if self._size + len(line) > _MAX_FILE_BYTES:
                self._turn(self._path)
            # One write of a whole line to the end: lines of several processes do not mix.
            self._size += os.write(self._handle, line)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _open(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._handle).st_size

    def _turn(self, path: Path) -> None:
        assert self._handle is not None, "asked only while the file is open"
        for number in range(_KEPT_FILES - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}.{number}", f"{path}.{number + 1}")
        os.replace(path, f"{path}.1")
        os.close(self._handle)
        self._open(path)
