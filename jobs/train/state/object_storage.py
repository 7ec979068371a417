"""Checkpoints in an object store (S3, GCS, Azure) or any other fsspec file system.

A PUT becomes visible whole or not at all, so parts need no temporary names; the commit is one conditional PUT, refused
by the store itself if the object exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import fsspec

from jobs.train.state.errors import CorruptStateError, StorageError
from orchestrator.spec.errors import ExitCode


class FsspecStorage:
    """A prefix of an fsspec file system.

    Raises: StorageError if the scheme's package is not installed or the URL makes no sense to it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            scheme = urlsplit(url).scheme
            raise StorageError(
                f"cannot be opened ({error})",
                code=ExitCode.INVALID,
                where=url,
                next_step=f"Install the fsspec package for {scheme!r} on every node or use file:// storage",
            ) from error

    def write(self, name: str, chunks: Iterable[memoryview], nbytes: int) -> None:
        """Multi-part upload; an abandoned one never becomes visible."""
        path = self._path(name)
        with self._failures(name):
            self._make_parent(path)
            with self._fs.open(path, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)

    def commit(self, name: str, content: bytes) -> bool:
        """One conditional PUT (If-None-Match on S3, if-generation-match on GCS: fsspec's mode `create`)."""
        path = self._path(name)
        try:
            with self._failures(name):
                self._make_parent(path)
                self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        """One ranged GET."""
        path = self._path(file)
        try:
            with self._failures(file):
                data = self._fs.cat_file(path, start=offset, end=offset + nbytes)
        except FileNotFoundError as error:
            raise CorruptStateError("is gone", where=path) from error
        if len(data) != nbytes:
            raise CorruptStateError(f"ends at {offset + len(data)}; {offset + nbytes} bytes were expected", where=path)
        return memoryview(data)

    def size(self, name: str) -> int | None:
        """Size from a fresh HEAD; None if there is no such object."""
        path = self._path(name)
        try:
            with self._failures(name):
                self._fs.invalidate_cache()
                return int(self._fs.size(path))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """A fresh listing: other writers' objects must show."""
        path = self._path(folder)
        try:
            with self._failures(folder):
                self._fs.invalidate_cache()
                found = self._fs.find(path)
        except FileNotFoundError:
            return []
        start = len(self._root.rstrip("/")) + 1
        return sorted(path[start:] for path in found)

    def delete(self, names: Iterable[str]) -> None:
        """One after the other, in the given order."""
        for name in names:
            path = self._path(name)
            with contextlib.suppress(FileNotFoundError), self._failures(name):
                self._fs.rm_file(path)

    def _path(self, name: str) -> str:
        if ".." in name.split("/"):
            raise ValueError(f"{name!r} leads out of the storage")
        return f"{self._root.rstrip('/')}/{name}"

    def _make_parent(self, path: str) -> None:
        # Object stores have no folders; file systems behind fsspec do.
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise  # answers, not failures
        except Exception as error:  # every store raises its own types; all mean the same to a checkpoint
            raise StorageError(
                f"storage failed ({type(error).__name__}: {error}); earlier checkpoints are untouched",
                where=f"{self.url}/{name}",
                next_step="Check access rights, quota and network",
            ) from error
