"""The supervisor's end of a rank, whichever way it was started: two pipes and a descriptor of the process.

A process descriptor (pidfd) tells of the rank's end even when nobody can wait for it any more, and a signal through it
can never hit another process that was given the same number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from jobs.train import messages, wire
from jobs.train.config import StartRequest
from jobs.train.messages import Control, Failed, LineBuffer, Message
from jobs.train.starters import Exit

_READ_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20  # thousands of messages: a supervisor that is busy for a while does not hold up its rank
_F_SETPIPE_SZ = 1031


@dataclass(slots=True)
class RankPipes:
    """Both ends of a rank's two pipes; the child's ends are closed once the child has them."""

    messages_r: int
    messages_w: int
    control_r: int
    control_w: int

    @classmethod
    def open(cls) -> Self:
        """New pipes, closed on exec."""
        import fcntl

        messages_r, messages_w = os.pipe()
        control_r, control_w = os.pipe()
        os.set_blocking(messages_r, False)
        with contextlib.suppress(OSError):  # above the user's limit for pipes: the default size will do
            fcntl.fcntl(messages_w, _F_SETPIPE_SZ, _PIPE_BYTES)
        return cls(messages_r, messages_w, control_r, control_w)

    def close_child_ends(self) -> None:
        """After the start: from now on the end of either process closes its pipes."""
        os.close(self.messages_w)
        os.close(self.control_r)

    def close(self) -> None:
        """All four, when the start failed."""
        self.close_child_ends()
        os.close(self.messages_r)
        os.close(self.control_w)


class PipeHandle:
    """A `RankHandle` over pipes; subclasses say how the exit status is learned (`_reap`)."""

    def __init__(self, request: StartRequest, pid: int, pidfd: int, pipes: RankPipes) -> None:
        self.rank = request.rank
        self.pid = pid
        self._pidfd = pidfd
        self._messages_r = pipes.messages_r
        self._control_w = pipes.control_w
        self._lines = LineBuffer()
        self._inbox: list[Message] = []
        self._exit: Exit | None = None
        self._closed = False
        self._epoll = select.epoll()
        self._epoll.register(self._messages_r, select.EPOLLIN)
        self._epoll.register(self._pidfd, select.EPOLLIN)
        self._write(wire.dump(request) + b"\n")

    def _reap(self) -> Exit:
        """The rank has ended: how? Called once."""
        raise NotImplementedError

    def fileno(self) -> int:
        return self._epoll.fileno()

    def poll(self) -> list[Message]:
        self._pump(0.0)
        arrived, self._inbox = self._inbox, []
        return arrived

    def messages(self) -> Iterator[Message]:
        while True:
            yield from self.poll()
            if self._exit is not None:
                return
            self._pump(None)

    def send(self, control: Control) -> None:
        self._write(messages.encode(control))

    def signal(self, signum: int) -> None:
        if self._exit is None and not self._closed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def wait(self, timeout_s: float | None = None) -> Exit | None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._exit is None:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            self._pump(left_s)
            if left_s == 0.0:
                break
        return self._exit

    def close(self) -> None:
        if self._closed:
            return
        self.signal(signal.SIGKILL)
        self.wait()
        self._closed = True
        self._epoll.close()
        for fd in (self._messages_r, self._control_w, self._pidfd):
            os.close(fd)

    def _write(self, data: bytes) -> None:
        if self._closed:
            return
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._control_w, data) :]

    def _pump(self, timeout_s: float | None) -> None:
        """Take in what has arrived; waits at most `timeout_s` for something (None: until something comes)."""
        if self._exit is not None or self._closed:
            return
        ready = {fd for fd, _ in self._epoll.poll(timeout_s)}
        if self._messages_r in ready:
            self._drain()
        if self._pidfd in ready:
            self._drain()  # what it said last
            self._epoll.unregister(self._pidfd)
            with contextlib.suppress(FileNotFoundError):  # _drain saw the end of the pipe already
                self._epoll.unregister(self._messages_r)
            self._exit = self._reap()

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self._messages_r, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                with contextlib.suppress(FileNotFoundError):
                    self._epoll.unregister(self._messages_r)
                return
            for line in self._lines.feed(data):
                self._inbox.append(self._decoded(line))

    def _decoded(self, line: bytes) -> Message:
        try:
            message = messages.decode(line)
            if isinstance(message, Control):
                raise wire.WireError(f"a rank cannot send {type(message).__name__}")
            return message
        except wire.WireError as error:
            # Nothing it says can be trusted any more, and half an understanding would corrupt the record.
            self.signal(signal.SIGKILL)
            return Failed("internal", f"rank {self.rank}: {error}", "")
