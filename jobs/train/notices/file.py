"""A file says that the node must go: for tests, and for clusters whose operators have their own ways.

The file may be empty (a drain, with the default deadline), hold the seconds that are left, counted from when it was
written, or one JSON object: `kind` (see `NoticeKind`), `deadline_s` (such seconds) or `deadline` (ISO time), `detail`.
Write it under another name and rename it: half a file is an error until it is whole.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.train.notices.deadlines import seconds_until_iso
from jobs.train.notices.values import ADVISORY, Notice, NoticeKind, SourceError

NAME = "file"
_KEYS = {"kind", "deadline", "deadline_s", "detail"}


class FileSource:
    """Implements `NoticeSource`. `grace_s`: the deadline when the file names none. `clock` gives Unix time."""

    name = NAME

    def __init__(self, path: Path, grace_s: float, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._grace_s = grace_s
        self._clock = clock

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """Raises: SourceError if the file makes no sense."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                text = file.read()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from error
        return (self._read(text, f"{found.st_ino}@{found.st_mtime_ns}", found.st_mtime),)

    def close(self) -> None:
        pass

    def _read(self, text: bytes, identity: str, written_s: float) -> Notice:
        try:
            found = json.loads(text) if text.strip() else {}
            said: dict[str, Any] = {"deadline_s": found} if isinstance(found, int | float) else found
            if strange := set(said) - _KEYS:
                raise SourceError(f"{self._path}: unknown {sorted(strange)}; known are {sorted(_KEYS)}")
            kind = NoticeKind(said.get("kind", NoticeKind.DRAIN))
            return Notice(
                kind=kind,
                source=NAME,
                id=identity,
                deadline_s=self._deadline_s(said, written_s),
                detail=str(said.get("detail", f"{self._path} asks for this node")),
                advisory=kind in ADVISORY,
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise SourceError(f"{self._path}: {error}") from error

    def _deadline_s(self, said: dict[str, Any], written_s: float) -> float:
        now_s = self._clock()
        if "deadline" in said:
            return seconds_until_iso(str(said["deadline"]), now_s)
        return max(0.0, written_s + float(said.get("deadline_s", self._grace_s)) - now_s)
