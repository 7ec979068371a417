"""Private folders for work that is not published yet, and the removal of those whose owner was killed.

A folder's owner holds a file lock that the kernel drops with the process, so a sweep can tell the dead from the slow
without clocks or process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_GATE = ".gate"
_LOCK = ".lock"


@contextlib.contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """A new empty folder under `root`, gone on exit; folders that killed processes left there are removed first."""
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    folder = root / uuid.uuid4().hex
    with _locked(root / _GATE, fcntl.LOCK_SH):  # no sweep between making a folder and locking it
        folder.mkdir()
        owner = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def _sweep(root: Path) -> None:
    with _locked(root / _GATE, fcntl.LOCK_EX):
        for folder in root.iterdir():
            if folder.is_dir() and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with _locked(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:  # its owner is just removing it
        return False


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)
