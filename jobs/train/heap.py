"""The C library's heap keeps what a step has used, so that the next step need not ask the kernel for it again.

By default large blocks go back to the kernel when they are freed, and every page of the next one is a fault: 83,000 a
step and rank for a ZeRO 3 model of 10.7 million parameters, more than half of the kernel's time in a step. What was
only needed while the model was built is given back all the same.
"""

from __future__ import annotations

import ctypes
from typing import Any

# Freed memory beyond this is given back: by the C library at the heap's end, by `give_back` anywhere in it.
KEEP_BYTES = 2**30
# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


class _Usage(ctypes.Structure):
    """`struct mallinfo2`."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def keep() -> bool:
    """For this process and those forked from it; False where the C library has no such setting, and nothing is done."""
    library = _library()
    if library is None:
        return False
    # One arena: large blocks of other threads (gloo's hold whole buckets) do not fit theirs and are mapped anew.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, KEEP_BYTES), (_M_ARENA_MAX, 1))
    answers = [library.mallopt(number, value) for number, value in settings]
    return all(answers)


def give_back() -> int:
    """Give freed memory back if there is much of it; the bytes that were free then, else 0."""
    library = _library()
    if library is None:
        return 0
    free = int(library.mallinfo2().fordblks)
    if free <= KEEP_BYTES:
        return 0
    library.malloc_trim(0)
    return free


def _library() -> Any:
    """The C library if it is glibc of 2.33 (2021) or later."""
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "mallinfo2")):
        return None
    library.mallinfo2.restype = _Usage
    return library
