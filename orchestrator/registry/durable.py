"""Steps of a commit that must survive a power cut: write and flush, rename, flush the folder."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_file(path: Path, content: bytes, *, mode: int = 0o444) -> None:
    """Write a new file and flush it to disk. Raises: FileExistsError."""
    with open(path, "xb") as out:
        os.fchmod(out.fileno(), mode)
        out.write(content)
        flush_file(out.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_file(beside, content, mode=0o644)
    try:
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_file(descriptor: int) -> None:
    """Return once the file's bytes are on disk."""
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Make renames and new names inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
