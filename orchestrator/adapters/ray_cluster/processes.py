"""Finding and ending the processes of a local node, by their own folder and never by name."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import psutil

# A file in a node's folder that names a folder in shared memory which belongs to the node.
SHARED_MEMORY_NOTE = "shared-memory"


def node_processes(folder: Path) -> tuple[psutil.Process, ...]:
    """Processes of this user that were started with `folder` in their arguments or environment, descendants included.

    Ray's raylet, agents and workers carry the node's folder; what they start in turn is found as their child.
    """
    found: dict[int, psutil.Process] = {}
    mark = str(folder)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != psutil.Process().pid and _mentions(process, mark):
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
    return tuple(found.values())


def _mentions(process: psutil.Process, mark: str) -> bool:
    inside = f"{mark}/"
    if any(inside in part or part.endswith(mark) for part in process.cmdline()):
        return True
    return any(inside in value for value in process.environ().values())


def end_processes(processes: tuple[psutil.Process, ...], *, patience_s: float = 3.0) -> None:
    """SIGKILL, then wait until each is gone or a zombie of another parent."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=patience_s)


def remove_folders(folder: Path) -> None:
    """Remove a dead node's folder and the shared memory that its services noted there."""
    for note in folder.rglob(SHARED_MEMORY_NOTE):
        with contextlib.suppress(OSError):
            shutil.rmtree(note.read_text(encoding="utf-8"), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
