"""Where a cache fetches from: any folder or fsspec URL (`s3://`, `gs://`, `https://`) that holds a packed data set."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jobs.data.folders import writing
from jobs.data.manifest import Shard
from orchestrator.spec.errors import ExitCode, UserError

_PIECE_BYTES = 2**20
_MAX_SMALL_BYTES = 256 * 2**20


class Source:
    """A place to read from; every failure becomes a UserError that names the file."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def where(self, file: str) -> str:
        return f"{self._url}/{file}"

    def read_small(self, file: str) -> bytes:
        """A whole file of at most 256 MiB."""
        with self._open(file) as stream, self._reading(file):
            return stream.read(_MAX_SMALL_BYTES)

    def copy(self, shard: Shard, target: Path) -> None:
        """Copy a shard to `target`, on disk and verified. Raises: UserError if the source's copy is damaged."""
        sha, num_bytes = hashlib.sha256(), 0
        with self._open(shard.file) as stream, writing(target), open(target, "wb") as out:
            while num_bytes <= shard.file_bytes:
                with self._reading(shard.file):
                    piece = stream.read(_PIECE_BYTES)
                if not piece:
                    break
                sha.update(piece)
                num_bytes += len(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
            os.fchmod(out.fileno(), 0o444)
        if num_bytes != shard.file_bytes or sha.hexdigest() != shard.sha256:
            problem = f"shard {shard.sha256[:12]} is damaged at its source ({num_bytes} of {shard.file_bytes} bytes)"
            raise UserError(problem, where=self.where(shard.file), next_step="Pack or upload the data set again.")

    @contextlib.contextmanager
    def _open(self, file: str) -> Iterator[BinaryIO]:
        import fsspec  # here: its import costs more than most verbs take

        with self._reading(file):
            system, path = fsspec.core.url_to_fs(self.where(file))
            stream = system.open(path, "rb")
        with stream:
            yield stream

    @contextlib.contextmanager
    def _reading(self, file: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            next_step = "Give the folder of one version, which holds manifest.json."
            problem = "there is no such file"
            raise UserError(problem, where=self.where(file), code=ExitCode.UNKNOWN, next_step=next_step) from error
        except Exception as error:  # each file system behind fsspec has exceptions of its own
            problem = f"cannot be read: {type(error).__name__}: {error}"
            raise UserError(problem, where=self.where(file), code=ExitCode.UNREACHABLE) from error
