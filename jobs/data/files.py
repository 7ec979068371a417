"""Finding the text files of a folder, without leaving it.

Symbolic links are not followed, neither to files nor to folders: one could lead out of the tree, or let a file count
twice. Files are opened so that a link or a pipe put in their place meanwhile is refused.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.spec.errors import ExitCode, UserError

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRules:
    """Which files of a folder belong to a data set; patterns are shell patterns.

    `include` and `exclude` match a file's name or its path in the folder, `exclude` also a folder's. Hidden entries
    (`.git`) and `__pycache__` are left out.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def keeps_file(self, path: str) -> bool:
        return not self._leaves_out(path) and _matches(path, self.include)

    def keeps_folder(self, path: str) -> bool:
        return not self._leaves_out(path) and os.path.basename(path) != "__pycache__"

    def _leaves_out(self, path: str) -> bool:
        return os.path.basename(path).startswith(".") or _matches(path, self.exclude)


@dataclass(frozen=True, slots=True, order=True)
class SourceFile:
    """One text file: its path in the folder as bytes (the order of packing, and what the split is decided by)."""

    path: bytes
    num_bytes: int


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    name = os.path.basename(path)
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def find_text_files(root: Path, rules: FileRules) -> tuple[list[SourceFile], int]:
    """The non-empty text files under `root` in the order of their paths, and how many others were passed over.

    Text is what holds no NUL byte. Raises: UserError for what cannot be read.
    """
    found, passed_over = [], 0
    for path in _walk(root, "", rules):
        num_bytes = _text_size(root, path)
        if num_bytes:
            found.append(SourceFile(os.fsencode(path), num_bytes))
        else:
            passed_over += 1
    return sorted(found), passed_over


def _walk(root: Path, folder: str, rules: FileRules) -> Iterator[str]:
    try:
        entries = list(os.scandir(root / folder))
    except OSError as error:
        raise unreadable(root / folder, error) from error
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir(follow_symlinks=False):
            if rules.keeps_folder(path):
                yield from _walk(root, path, rules)
        elif entry.is_file(follow_symlinks=False) and rules.keeps_file(path):
            yield path


def _text_size(root: Path, path: str) -> int:
    """Size of a text file; 0 for a binary one."""
    num_bytes = 0
    with _opened(root / path) as file:
        while piece := file.read(_PIECE_BYTES):
            if b"\0" in piece:
                return 0
            num_bytes += len(piece)
    return num_bytes


def read_range(root: Path, source: SourceFile, start: int, stop: int) -> Iterator[bytes]:
    """Bytes [start, stop) of a file, in pieces of at most 1 MiB.

    Raises: UserError if it cannot be read, or is not the text file any more that was found.
    """
    path = root / os.fsdecode(source.path)
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size != source.num_bytes:
            raise _changed(path)
        file.seek(start)
        while start < stop:
            piece = file.read(min(_PIECE_BYTES, stop - start))
            if not piece or b"\0" in piece:
                raise _changed(path)
            start += len(piece)
            yield piece


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise _changed(path)
            yield file
    except OSError as error:
        raise unreadable(path, error) from error


def _changed(path: Path) -> UserError:
    problem = "the file changed while it was being packed"
    return UserError(problem, where=str(path), code=ExitCode.CONFLICT, next_step="Pack again when nobody writes to it.")


def unreadable(path: Path, error: OSError) -> UserError:
    """What to say about a path that cannot be read."""
    code = ExitCode.UNKNOWN if isinstance(error, FileNotFoundError) else ExitCode.INVALID
    next_step = "Make it readable, or leave it out with --exclude."
    return UserError(f"cannot be read: {error.strerror}", where=str(path), code=code, next_step=next_step)
