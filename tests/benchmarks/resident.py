"""Memory that a virtual machine already has, so that a benchmark does not measure how its host hands out more.

A guest that reports free memory gives it back to its host (Linux: free page reporting of virtio-balloon), and has to
ask again, page by page, when a process writes to it: on a nested machine ten times the price of a page that is there.
Whatever starts processes pays it, whoever starts them. A node that has run for a while has no such memory: the page
cache fills what nobody uses, and a page taken from there is the guest's own. `PageCacheFiller` brings a machine to that
state; `page_cost_us` says what a page costs in it.
"""

from __future__ import annotations

import mmap
import os
import resource
import tempfile
import time
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE
_PIECE_BYTES = 1 << 20
# Reading on is of no use when so much of it hardly lowers what is free: the kernel then takes its own cached pages.
_ROUND_PIECES = 512
_USEFUL_MIB = 64
_SPARSE_BYTES = 1 << 42
# How a child writes down its time.
_FIGURE_BYTES = 16


def free_mib() -> float:
    """Memory that nobody uses, not even the page cache, in MiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemFree:")).split()[1]) / 1024


def returned_gib() -> float:
    """Memory handed back to the host since the machine began, in GiB; 0 where the kernel does not say."""
    path = Path("/sys/module/page_reporting/parameters/reported_kib")
    return int(path.read_text()) / 2**20 if path.exists() else 0.0


class PageCacheFiller:
    """Fills free memory with cached pages of a file of holes, which costs no disk. Its pages are the first that the
    kernel takes when a process asks for memory. A file system that keeps no pages of holes (tmpfs) leaves it without
    effect."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - held as long as the pages are
        os.truncate(self._file.fileno(), _SPARSE_BYTES)
        self._at = 0

    def fill(self) -> float:
        """Read on until the kernel keeps no more. Returns the seconds it took."""
        began_s = time.monotonic()
        into = memoryview(bytearray(_PIECE_BYTES))
        before = free_mib()
        while True:
            for _ in range(_ROUND_PIECES):
                self._at += os.preadv(self._file.fileno(), [into], self._at)
            after = free_mib()
            if before - after < _USEFUL_MIB:
                return time.monotonic() - began_s
            before = after


def page_cost_us(processes: int, pages: int) -> float:
    """Kernel time in microseconds to copy a page shared with a parent, when so many forked processes write to so many
    pages at once and keep them: the least that any program with forked ranks pays."""
    shared = mmap.mmap(-1, pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _touch(shared)
    wait, go = os.pipe()
    told, tell = os.pipe()
    children = [_forked_writer(shared, wait, go, tell) for _ in range(processes)]
    os.close(go)
    spent = [_read_figure(told) for _ in children]
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    for end in (wait, told, tell):
        os.close(end)
    shared.close()
    return sum(spent) / len(spent) / pages * 1e6


def _forked_writer(shared: mmap.mmap, wait: int, go: int, tell: int) -> int:
    child = os.fork()
    if child:
        return child
    os.close(go)
    os.read(wait, 1)  # ends when the parent closes its end
    before_s = resource.getrusage(resource.RUSAGE_SELF).ru_stime
    _touch(shared)
    spent_s = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before_s
    os.write(tell, f"{spent_s:{_FIGURE_BYTES}.6f}".encode())
    while True:  # keeps the pages until it is killed
        time.sleep(3600)


def _read_figure(told: int) -> float:
    return float(os.read(told, _FIGURE_BYTES))


def _touch(memory: mmap.mmap) -> None:
    for at in range(0, len(memory), PAGE_BYTES):
        memory[at] = 1
