"""Pages that every rank writes to are copied right after its fork, all at once.

A forked rank shares the stem's memory and gets a page of its own when it first writes to one: some 8,000 before its
first step is over, because Python counts references in the objects themselves. Each is a fault: 4 us among 100 ranks on
two cores, 9 to 14 us among 200, scattered over everything a rank does. A rehearsal in a child of the stem shows which
pages they are; a rank then has the kernel copy them in one go, while the stem's are still in the cache.

Needs Linux 5.14; elsewhere nothing happens here, and pages are copied when they are written to.
"""

from __future__ import annotations

import array
import ctypes
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

_MADV_POPULATE_WRITE = 23
# Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT, _EXCLUSIVE = 1 << 63, 1 << 56
_ENTRY_BYTES = 8
_PAGE = os.sysconf("SC_PAGE_SIZE")

Ranges: TypeAlias = "array.array[int]"
"""First page, number of pages, first page, number of pages, and so on."""


def shared_mappings() -> list[tuple[int, int]]:
    """First and last page (exclusive) of what this process may write to and a child gets a copy of."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines():
        addresses, mode = line.split(" ", 2)[:2]
        if mode.startswith("rw") and mode.endswith("p") and not line.endswith("[stack]"):
            first, last = (int(address, 16) // _PAGE for address in addresses.split("-"))
            found.append((first, last))
    return found


def written_since_fork(mappings: Iterable[tuple[int, int]]) -> Ranges:
    """In a child: which pages of its parent's `mappings` it has to itself by now, because it wrote to them."""
    found = array.array("Q")
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for first, last in mappings:
            pagemap.seek(first * _ENTRY_BYTES)
            entries = array.array("Q", pagemap.read((last - first) * _ENTRY_BYTES))
            own = _PRESENT | _EXCLUSIVE
            pages = (first + at for at, entry in enumerate(entries) if entry & own == own)
            for start, length in _runs(pages):
                found.extend((start, length))
    return found


def copy_now(ranges: Ranges) -> bool:
    """Have these pages of this process copied; False where the kernel cannot. A page that is gone is passed over."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    done = False
    for start, length in zip(ranges[::2], ranges[1::2], strict=True):
        done = not madvise(start * _PAGE, length * _PAGE, _MADV_POPULATE_WRITE) or done
    return done


def num_pages(ranges: Ranges) -> int:
    """How many pages that are."""
    return sum(ranges[1::2])


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Pages that follow one another, as (first, number)."""
    for _, run in itertools.groupby(enumerate(pages), key=lambda pair: pair[1] - pair[0]):
        found = [page for _, page in run]
        yield found[0], len(found)
