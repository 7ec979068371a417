"""SIGTERM as a notice: what Kubernetes, systemd and batch systems send before they kill.

Source: Kubernetes documentation, "Pod Lifecycle: Termination of Pods". Nothing says how long the grace period is: it is
configured here to what the pod has (`terminationGracePeriodSeconds`; KubeRay sets none, which means 30 s).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from types import FrameType

from jobs.train.notices.values import Notice, NoticeKind


class SignalSource:
    """Turns signals into a notice; implements `NoticeSource`. Must be made in the main thread.

    A handler that was there before is called afterwards, as it would have been.
    """

    name = "signal"

    def __init__(self, grace_s: float, signals: Iterable[signal.Signals] = (signal.SIGTERM,)) -> None:
        """Raises: ValueError outside the main thread."""
        self._grace_s = grace_s
        self._came: tuple[int, float] | None = None
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Not closed in `close`: another thread may be waiting on them.
        for fd in (self._read_fd, self._write_fd):
            weakref.finalize(self, os.close, fd)
        self._before = {number: signal.signal(number, self._on_signal) for number in signals}

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """The notice, once a signal has come."""
        if self._came is None:
            select.select([self._read_fd], [], [], timeout_s)
        if self._came is None:
            return ()
        number, at_s = self._came
        name = signal.Signals(number).name
        left_s = max(0.0, at_s + self._grace_s - time.monotonic())
        detail = f"{name}: the pod or process is being ended"
        return (Notice(kind=NoticeKind.TERMINATE, source=self.name, id=name, deadline_s=left_s, detail=detail),)

    def close(self) -> None:
        """Give the handlers back (in the main thread; elsewhere they stay, and do nothing new)."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._wake()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Nothing here may take a lock: the main thread may hold it.
        if self._came is None:
            self._came = (number, time.monotonic())
            self._wake()
        before = self._before.get(signal.Signals(number))
        if callable(before):
            before(number, frame)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_fd, b"!")
