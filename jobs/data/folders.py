"""Folders that appear whole or not at all, whoever is killed at whatever moment.

Work in progress lives in folders whose name starts with a dot, which no reader looks at; whatever a killed process left
there is swept by the next writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.errors import UserError


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A private folder inside `parent` to prepare something in; gone afterwards unless it was renamed away.

    It is locked while its process lives, so that sweeping what a killed process left cannot take a live one.
    """
    with locked(parent):
        _sweep(parent)
        work = Path(tempfile.mkdtemp(prefix=".work-", dir=parent))
        lock = os.open(work, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock", *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that dies with this process, alone or with other shared holders; waits for whoever is in the way."""
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_durably(path: Path, text: str) -> None:
    """Replace a small file so that readers see the old or the new text, also after a power cut."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn what the disk refuses (no space, no permission, read-only) into a UserError about `where`."""
    try:
        yield
    except OSError as error:
        next_step = "Free some space there, or name another folder (TIDE_HOME)."
        raise UserError(f"cannot be written: {error.strerror}", where=str(where), next_step=next_step) from error


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(parent: Path) -> None:
    for left in parent.glob(".work-*"):
        try:
            handle = os.open(left, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its process has just removed it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its process lives
        else:
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(handle)
