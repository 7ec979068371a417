"""Named points at which a test may kill the process: before and after every commit, around every step of an order.

Nothing happens at them unless a test set `hook`; the names are the crash matrix (tests/ledger/test_crash.py).
"""

from __future__ import annotations

from collections.abc import Callable

hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Here a crash is survived."""
    if hook is not None:
        hook(name)
