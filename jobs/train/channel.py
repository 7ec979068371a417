"""The rank's end of its two pipes: what it reports, what it is told, and the end of its supervisor.

A thread reads the control pipe all the time, because its end of file means that the supervisor is gone, and then the
rank must go at once, even if its main thread waits for other ranks.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

from jobs.train import messages, wire
from jobs.train.config import StartRequest
from jobs.train.messages import Checkpoint, Control, LineBuffer, Message, Stop

_READ_BYTES = 1 << 16


class Channel:
    """Messages out, wishes in; `stop_reason`, `stop_asked_s` and `checkpoint_wanted` may change at any moment."""

    def __init__(self, messages_fd: int, control_fd: int) -> None:
        for fd in (messages_fd, control_fd):
            os.set_inheritable(fd, False)  # a child that held them would hide the rank's end
        self._messages_fd = messages_fd
        self._control_fd = control_fd
        self._lock = threading.Lock()
        self._lines = LineBuffer()
        self._early: list[bytes] = []
        self.stop_reason: str | None = None
        self.stop_asked_s = 0.0
        self.checkpoint_wanted = False

    def read_request(self) -> StartRequest:
        """The first line of the control pipe. Call once, before `watch`.

        Raises: WireError; EOFError if the supervisor is gone already.
        """
        while True:
            data = os.read(self._control_fd, _READ_BYTES)
            if not data:
                raise EOFError("the supervisor closed the control pipe before it said what to do")
            lines = self._lines.feed(data)
            if lines:
                self._early = lines[1:]
                return wire.load(StartRequest, lines[0])

    def watch(self, on_orphaned: Callable[[], None] | None = None) -> None:
        """Take wishes from now on; SIGTERM counts as a stop. `on_orphaned` replaces the sudden end, for tests."""
        signal.signal(signal.SIGTERM, lambda *_: self._take(Stop("SIGTERM")))
        for line in self._early:
            self._take_line(line)
        target = on_orphaned or die_with_children
        threading.Thread(target=self._read_controls, args=(target,), name="control", daemon=True).start()

    def send(self, message: Message) -> None:
        """Report; any thread. Blocks while the pipe is full; a supervisor that is gone is no error here."""
        data = messages.encode(message)
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._messages_fd, data) :]
            except BrokenPipeError:
                return

    def _read_controls(self, on_orphaned: Callable[[], None]) -> None:
        try:
            while data := os.read(self._control_fd, _READ_BYTES):
                for line in self._lines.feed(data):
                    self._take_line(line)
        except wire.WireError:
            traceback.print_exc()  # to the rank's log; who sent such a line is no supervisor of ours
        on_orphaned()

    def _take_line(self, line: bytes) -> None:
        control = messages.decode(line)
        if not isinstance(control, Control):
            raise wire.WireError(f"a supervisor cannot send {type(control).__name__}")
        self._take(control)

    def _take(self, control: Control) -> None:
        match control:
            case Stop(reason) if self.stop_reason is None:
                self.stop_asked_s = time.monotonic()
                self.stop_reason = reason
            case Stop():
                return  # the first reason counts
            case Checkpoint():
                self.checkpoint_wanted = True


def die_with_children() -> None:
    """End this process and everything it started, now: both starters made it the leader of its own group."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
