"""The port behind which ranks start: one request, one rank, one handle.

Two implementations, one contract: `forkserver.ForkServerStarter` (forked from the node's stem in milliseconds) and
`plain_starter.PlainStarter` (a new interpreter). A rank never outlives its handle: when the process that holds it dies,
so does the rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from jobs.train.config import StartRequest
from jobs.train.messages import Control, Message


@dataclass(frozen=True, slots=True)
class Exit:
    """How a rank ended: an exit code, or the signal that killed it; neither if nobody saw it (the stem was gone)."""

    code: int | None
    signal: int | None


class StartError(RuntimeError):
    """The rank could not be started; the message says why and what to do."""


class RankHandle(Protocol):
    """One running rank, for the process that supervises it. Not thread-safe; use it from one thread."""

    @property
    def rank(self) -> int: ...

    @property
    def pid(self) -> int: ...

    def fileno(self) -> int:
        """Readable when `poll` has something, for `selectors`."""

    def poll(self) -> list[Message]:
        """Messages that have arrived since; never blocks. Empty after the end, too: ask `wait(0)`."""

    def messages(self) -> Iterator[Message]:
        """Messages as they come, until the rank has ended."""

    def send(self, control: Control) -> None:
        """Tell the rank; silently nothing if it has ended."""

    def signal(self, signum: int) -> None:
        """Send a signal; silently nothing if it has ended."""

    def wait(self, timeout_s: float | None = None) -> Exit | None:
        """How it ended; None if it still runs after `timeout_s`."""

    def close(self) -> None:
        """Kill the rank if it runs, reap it and free the handle. May be called again."""


class RankStarter(Protocol):
    """Starts ranks on this node."""

    def start(self, request: StartRequest, *, output_fd: int | None = None) -> RankHandle:
        """Start one rank; its stdout and stderr go to `output_fd` (None: this process's own).

        Raises: StartError.
        """
