"""Where checkpoints live: a port of a few verbs, and its implementation on a file system.

The promise of every implementation: `write` makes a name visible whole or not at all, `commit` is atomic, and what was
written before stays as it was whatever happens to later writes. Knows nothing of tensors and manifests.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from jobs.train.state.errors import CorruptStateError, StateError, StorageError

_TEMPORARY = ".tmp"


class Storage(Protocol):
    """Named byte strings; names are relative paths with `/`."""

    url: str

    def write(self, name: str, chunks: Iterable[memoryview], nbytes: int) -> None:
        """Store `nbytes` bytes durably under a name nobody relies on yet. Raises: StorageError."""
        ...

    def commit(self, name: str, content: bytes) -> bool:
        """Store a small file atomically unless the name exists; False if it does. Raises: StorageError."""
        ...

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        """Bytes of a file, without a copy where possible.

        Raises: CorruptStateError if the file is missing or shorter, StorageError if storage cannot be reached.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is none. Raises: StorageError."""
        ...

    def names(self, folder: str) -> list[str]:
        """All files below a folder, sorted, relative to the storage; unfinished ones left out. Raises: StorageError."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; missing ones are no error. Raises: StorageError."""
        ...


class FileStorage:
    """A folder, local or mounted on every node: temporary name, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()
        self._maps: dict[str, memoryview] = {}

    def write(self, name: str, chunks: Iterable[memoryview], nbytes: int) -> None:
        with self._failures(name):
            with self._temporary(name) as temporary:
                _write_durably(temporary, chunks, nbytes)
                os.replace(temporary, self._path(name))
            _sync_folder(self._path(name).parent)

    def commit(self, name: str, content: bytes) -> bool:
        with self._failures(name):
            with self._temporary(name) as temporary:
                _write_durably(temporary, [memoryview(content)], len(content))
                try:
                    os.link(temporary, self._path(name))  # unlike a rename, refuses to replace
                except FileExistsError:
                    return False
            _sync_folder(self._path(name).parent)
            return True

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        with self._failures(file):
            mapped = self._mapped(file)
        if offset + nbytes > len(mapped):
            raise CorruptStateError(
                f"has {len(mapped)} bytes; {offset + nbytes} were expected", where=self._where(file)
            )
        return mapped[offset : offset + nbytes]

    def will_need(self, file: str, offset: int, nbytes: int) -> None:
        """Ask the kernel to read ahead; a missing or short file shows when it is read."""
        with contextlib.suppress(StateError, ValueError, OSError):
            mapped = self._mapped(file).obj
            if isinstance(mapped, mmap.mmap):  # an empty file has nothing to map
                mapped.madvise(mmap.MADV_WILLNEED, offset, nbytes)

    def size(self, name: str) -> int | None:
        with self._failures(name):
            try:
                return self._path(name).stat().st_size
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        with self._failures(folder):
            top = self._path(folder)
            found = (
                Path(base, file) for base, _, files in os.walk(top, onerror=_raise_unless_missing) for file in files
            )
            return sorted(str(p.relative_to(self.root)) for p in found if not p.name.endswith(_TEMPORARY))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with self._failures(name):
                self._maps.pop(name, None)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(name))
                with contextlib.suppress(OSError):
                    os.rmdir(self._path(name).parent)  # only succeeds when it has become empty

    def delete_unfinished(self, folder: str, older_than_s: float, now_s: float) -> int:
        """Remove what interrupted writes left behind, if untouched for a while; returns how many files."""
        with self._failures(folder):
            left = [p for p in self._path(folder).rglob(f"*{_TEMPORARY}") if now_s - p.stat().st_mtime > older_than_s]
            for path in left:
                path.unlink(missing_ok=True)
        return len(left)

    def close(self) -> None:
        """Drop the mappings of files that were read."""
        self._maps.clear()

    def _path(self, name: str) -> Path:
        path = self.root / name
        if ".." in path.parts:
            raise ValueError(f"{name!r} leads out of the storage")
        return path

    def _where(self, name: str) -> str:
        return str(self._path(name))

    def _mapped(self, file: str) -> memoryview:
        if file not in self._maps:
            try:
                with self._path(file).open("rb") as opened:
                    self._maps[file] = _map(opened.fileno())
            except FileNotFoundError as error:
                raise CorruptStateError("is gone", where=self._where(file)) from error
        return self._maps[file]

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        """A name beside the final one, so that the rename stays on one file system; removed unless renamed."""
        path = self._path(name)
        os.makedirs(path.parent, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    @contextlib.contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _explain(error, self._where(name)) from error


def _map(descriptor: int) -> memoryview:
    size = os.fstat(descriptor).st_size
    # Copy-on-write, never written: numpy and torch take writable memory without a copy or a warning.
    return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)) if size else memoryview(b"")


def _write_durably(path: Path, chunks: Iterable[memoryview], nbytes: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        if nbytes:
            _reserve(descriptor, nbytes)  # a full disk shows before the ranks have written for minutes
        written = 0
        for chunk in chunks:
            left = chunk
            while len(left):  # a write may be short
                left = left[os.write(descriptor, left) :]
            written += len(chunk)
        assert written == nbytes, f"{path}: {written} bytes came, {nbytes} were announced"
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, nbytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some network file systems cannot
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


_NEXT_STEPS = {
    errno.ENOSPC: ("storage is full", "Free space or run 'tide checkpoint gc'"),
    errno.EDQUOT: ("the quota of storage is used up", "Free space or run 'tide checkpoint gc'"),
    errno.EROFS: ("storage is read-only", "Mount it writable or set checkpoint.storage to another place"),
    errno.EACCES: ("storage refuses access", "Give this user access or set checkpoint.storage to another place"),
    errno.EPERM: ("storage refuses access", "Give this user access or set checkpoint.storage to another place"),
}


def _explain(error: OSError, where: str) -> StorageError:
    problem, next_step = _NEXT_STEPS.get(
        error.errno or 0,
        (f"storage failed ({error.strerror or error})", "Check that it is mounted and reachable from this node"),
    )
    return StorageError(f"{problem}; earlier checkpoints are untouched", where=where, next_step=next_step)
