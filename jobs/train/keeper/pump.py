"""A thread that works while there is work and sleeps otherwise; no polling, no busy loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)
# After a bug in `work`: often enough to heal when it was passing, rarely enough not to burn a core.
_AFTER_BUG_S = 1.0


class Pump:
    """Calls `work` again and again: at once if it returns 0, after so many seconds, or (None) when woken."""

    def __init__(self, name: str, work: Callable[[], float | None]) -> None:
        self._work = work
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def stop(self) -> None:
        """Let the call under way finish, and begin no other."""
        self._stopped = True
        self._woken.set()

    def join(self, timeout_s: float) -> bool:
        """After `stop`: whether it has ended by then. One that hangs (in storage, say) is left behind as a daemon."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped:
            self._woken.clear()
            try:
                wait_s = self._work()
            except Exception:
                _log.exception("background work failed", thread=self._thread.name)
                wait_s = _AFTER_BUG_S
            if not self._stopped and wait_s != 0:
                self._woken.wait(wait_s)
