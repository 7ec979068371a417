"""Registers a model, killing itself with SIGKILL before the k-th file operation, for every k; one fork per k.

Run as `python -m tests.registry.crash ROOT SOURCE`; prints how many points there were. Single-threaded on purpose: it
forks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from orchestrator.registry import Registry
from tests.registry.models import PROVENANCE

_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.chmod")


def kill_before(k: int) -> None:
    """Die at the k-th operation from now; Python announces each to audit hooks before it happens."""
    count = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event in _OPERATIONS:
            count += 1
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def dies(work: Callable[[], object], k: int) -> bool:
    """Run `work` in a child that is killed at operation k; False when it finished before."""
    child = os.fork()
    if child == 0:
        kill_before(k)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed of itself"
    return os.WIFSIGNALED(status)


def main(root: Path, source: Path) -> int:
    """Kill at every point in turn, each in a registry of its own; returns the number of points."""
    k = 1
    while dies(partial(_register, root / str(k), source), k):
        k += 1
    return k - 1


def _register(root: Path, source: Path) -> None:
    Registry(root).register("m", source, PROVENANCE)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201
