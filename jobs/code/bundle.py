"""Code on its way to a server: one compressed archive, opened there without trust."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, cast

from jobs.code.listing import MAX_BYTES, MAX_FILES, CodeFile
from orchestrator.spec.errors import ExitCode, UserError

MAX_PACKED_BYTES = 64 * 2**20
_CHUNK = 1 << 20
_LEVEL = 6
# Beside the files themselves: a header and padding for each, more where a path is long.
_MOST_OPENED = MAX_BYTES + MAX_FILES * 4096


def pack(folder: Path, files: Sequence[CodeFile]) -> bytes:
    """These files as a gzipped tar, without anybody's name, number or time in it.

    Raises: UserError if it is too large, or if a file has changed while it was read.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=_LEVEL, format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            content = (folder / file.path).read_bytes()
            if len(content) != file.num_bytes:
                raise UserError(f"{file.path} changed while it was read", where=f"working_dir {folder}")
            entry = tarfile.TarInfo(file.path)
            entry.size, entry.mode = len(content), 0o755 if file.is_executable else 0o644
            archive.addfile(entry, io.BytesIO(content))
    if packed.tell() > MAX_PACKED_BYTES:
        problem = f"{packed.tell() / 2**20:,.0f} MiB compressed; at most {MAX_PACKED_BYTES // 2**20} MiB are sent"
        step = "Name what is no code in .tideignore (the rules are .gitignore's)"
        raise UserError(problem, where=f"working_dir {folder}", next_step=step)
    return packed.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Write what an archive holds into an empty folder, each file on the disk when this returns.

    Raises: UserError (invalid) for what is no such archive: links, devices, paths that lead out, or more than `pack`
    would have taken.
    """
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Opened(packed)), mode="r|") as archive:
            num_files = num_bytes = 0
            for entry in archive:
                num_files, num_bytes = num_files + 1, num_bytes + entry.size
                if num_files > MAX_FILES or num_bytes > MAX_BYTES:
                    raise _bad(f"more than {MAX_FILES:,} files or {MAX_BYTES // 2**20} MiB")
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise _bad(f"{entry.name[:200]!r} is no plain file")
                _write(_inside(folder, entry.name), content, entry.size, is_executable=bool(entry.mode & 0o100))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise _bad(f"{type(error).__name__}: {error}") from error


class _Opened:
    """An archive's decompressed bytes, so many and no more: a header may claim any size, too."""

    def __init__(self, packed: bytes) -> None:
        self._file = gzip.GzipFile(fileobj=io.BytesIO(packed))
        self._left = _MOST_OPENED

    def read(self, num_bytes: int) -> bytes:
        """The next bytes. Raises: UserError beyond the limit."""
        self._left -= num_bytes
        if self._left < 0:
            raise _bad(f"it opens to more than {_MOST_OPENED // 2**20} MiB")
        return self._file.read(num_bytes)


def _inside(folder: Path, name: str) -> Path:
    """Where a file goes. Raises: UserError for a name that leads elsewhere."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or not name.isprintable():
        raise _bad(f"{name[:200]!r} is no path within the folder")
    return folder.joinpath(*parts)


def _write(path: Path, content: IO[bytes], num_bytes: int, *, is_executable: bool) -> None:
    if path.exists():
        raise _bad(f"{path.name!r} comes twice")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise _bad(f"{path.name!r} is both a file and a folder") from None
    with os.fdopen(handle, "wb") as file:
        left = num_bytes
        while left and (chunk := content.read(min(left, _CHUNK))):
            file.write(chunk)
            left -= len(chunk)
        file.flush()
        # Nobody changes what the name stands for by accident.
        os.fchmod(file.fileno(), 0o555 if is_executable else 0o444)
        os.fsync(file.fileno())
    if left:
        raise _bad(f"{path.name!r} ends too early")


def _bad(problem: str) -> UserError:
    return UserError(f"no archive of code: {problem}", code=ExitCode.INVALID, where="body")
