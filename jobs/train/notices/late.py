"""A source that cannot be made yet: its port is taken by another job's agent on this node, which may end first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from jobs.train.notices.values import Notice, NoticeSource, SourceError


class LateSource:
    """Implements `NoticeSource`: made at the first poll that finds the place free. `make` raises OSError until then."""

    def __init__(self, name: str, make: Callable[[], NoticeSource]) -> None:
        self.name = name
        self._make = make
        self._lock = threading.Lock()
        self._made: NoticeSource | None = None
        self._closed = False

    @property
    def made(self) -> NoticeSource | None:
        """The source itself, once it could be made."""
        return self._made

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """Raises: SourceError while the source cannot be made, and as the source itself."""
        with self._lock:
            if self._closed:
                raise SourceError("closed")
            if self._made is None:
                try:
                    self._made = self._make()
                except OSError as error:
                    raise SourceError(f"{self.name}: {error}") from error
        return self._made.poll(timeout_s)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()
