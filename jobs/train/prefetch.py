"""Batches prepared beside the computation: a thread walks the same plan as the loop, a few passes ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_DEPTH = 2


class _End:
    """The last thing in the queue."""


class Prefetcher(Generic[T]):
    """Iterates `make()` in a thread, at most `depth` items ahead; an error surfaces where the item would have."""

    def __init__(self, make: Callable[[], Iterator[T]], depth: int = _DEPTH) -> None:
        self._make = make
        self._items: queue.Queue[T | _End | BaseException] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        item = self._items.get()
        if isinstance(item, _End):
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def __iter__(self) -> Prefetcher[T]:
        return self

    def close(self) -> None:
        """Stop the thread and drop what it prepared."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._items.get_nowait()  # makes room for a put that waits
            except queue.Empty:
                self._thread.join(0.01)

    def _fill(self) -> None:
        try:
            for item in self._make():
                if self._closed.is_set():
                    return
                self._items.put(item)
            self._items.put(_End())
        except BaseException as error:
            self._items.put(error)
