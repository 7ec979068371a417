"""Logs of attempts as bytes on disk: they outlive workers, nodes and the Ray cluster that wrote them.

One folder per job, one file per attempt, appended to and never rewritten, so that a reader resumes by offset. Refuses
to know what is in a log.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_ENDED = ".ended"
_PURGED = ".purged"
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """Bytes of one attempt's log from `offset` on; `ended` when the attempt is over and nothing comes after them."""

    offset: int
    data: bytes
    next_offset: int
    ended: bool


class LogPurgedError(Exception):
    """The log was removed after its time of keeping. `first_offset`: where what is left begins; None = nothing is."""

    def __init__(self, first_offset: int | None = None) -> None:
        super().__init__(first_offset)
        self.first_offset = first_offset


class LogArchive(Protocol):
    """Where logs are read."""

    def chunk(self, job_id: str, attempt: int, *, offset: int, limit: int) -> LogChunk:
        """At most `limit` bytes from byte `offset` on.

        Raises: LogPurgedError; KeyError when there is no such attempt.
        """
        ...


class FileLogArchive:
    """Logs under `root`: JOB/ATTEMPT.log. One process writes a log, any may read it meanwhile."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def append(self, job_id: str, attempt: int, data: bytes) -> None:
        """Add to an attempt's log; what was added before stays as it is."""
        path = self._path(job_id, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        finally:
            os.close(handle)

    def end(self, job_id: str, attempt: int) -> None:
        """Nothing more comes: readers that wait for more are told."""
        path = self._path(job_id, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(_ENDED).touch(mode=0o600)

    def attempts(self, job_id: str) -> tuple[int, ...]:
        """Attempts of which something was kept or purged, in order."""
        folder = self._path(job_id, 1).parent
        if not folder.is_dir():
            return ()
        names = {path.stem for path in folder.iterdir()}
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def chunk(self, job_id: str, attempt: int, *, offset: int, limit: int) -> LogChunk:
        """See `LogArchive.chunk`."""
        if offset < 0 or limit < 1:
            raise ValueError(f"offset {offset} must be 0 or more, limit {limit} 1 or more")
        path = self._path(job_id, attempt)
        if path.with_suffix(_PURGED).exists():
            raise LogPurgedError
        # Asked before reading: what was written before the end was said is then in what is read.
        over = path.with_suffix(_ENDED).exists()
        try:
            with path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(min(offset, size))
                data = log.read(limit)
        except FileNotFoundError:
            if not over:
                raise KeyError((job_id, attempt)) from None
            size, data = 0, b""
        start = min(offset, size)
        return LogChunk(
            offset=start, data=data, next_offset=start + len(data), ended=over and start + len(data) >= size
        )

    def purge(self, *, before_s: float) -> int:
        """Remove logs that ended before a time (UTC seconds); a mark stays, so that readers are told. How many."""
        num_purged = 0
        for ended in list(self._ended()):
            with contextlib.suppress(FileNotFoundError):
                if ended.stat().st_mtime < before_s:
                    ended.with_suffix(_PURGED).touch(mode=0o600)
                    ended.with_suffix(".log").unlink(missing_ok=True)
                    ended.unlink()
                    num_purged += 1
        return num_purged

    def forget(self, job_id: str) -> None:
        """Remove everything of a job, marks included."""
        shutil.rmtree(self._path(job_id, 1).parent, ignore_errors=True)

    def _ended(self) -> Iterator[Path]:
        yield from self._root.glob(f"*/*{_ENDED}") if self._root.is_dir() else ()

    def _path(self, job_id: str, attempt: int) -> Path:
        """Raises: KeyError for what cannot be a job's id: it must not lead out of the folder."""
        if not _JOB_ID.fullmatch(job_id) or attempt < 1:
            raise KeyError((job_id, attempt))
        return self._root / job_id / f"{attempt:06d}.log"
