"""The one thread that writes. Requests that wait while a transaction is under way share the next one and its fsync."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from orchestrator.api.problems import busy
from orchestrator.ledger.submission import Accepted, Submission

T = TypeVar("T")
MOST_WAITING = 5000
_MOST_TOGETHER = 512


class Submitter(Protocol):
    """What takes submissions: a Ledger."""

    def submit_all(self, submissions: Sequence[Submission]) -> list[Accepted | BaseException]:
        """Carry out all of them in one transaction; each is answered with what was accepted, or an error."""
        ...


@dataclass(slots=True)
class _Seat:
    what: Submission | Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Writer:
    """`committed` is called on the writing thread after everything that may have changed something."""

    def __init__(self, ledger: Submitter, committed: Callable[[], None]) -> None:
        self._ledger = ledger
        self._committed = committed
        self._waiting: deque[_Seat] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    async def submit(self, submission: Submission) -> Accepted:
        """Accept jobs; when this returns they are on the disk. Raises: what the ledger raises; ApiError when busy."""
        accepted: Accepted = await self._enter(submission)
        return accepted

    async def do(self, work: Callable[[], T]) -> T:
        """Run something that writes. Raises: what it raises; ApiError when busy."""
        done: T = await self._enter(work)
        return done

    def close(self) -> None:
        """Finish what waits and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    async def _enter(self, what: Submission | Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        seat = _Seat(what, loop, loop.create_future())
        with self._changed:
            if self._stopping or len(self._waiting) >= MOST_WAITING:
                raise busy()
            self._waiting.append(seat)
            self._changed.notify()
        return await seat.future

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if not self._waiting:
                    return
                seats = self._next()
            answers = self._carry_out(seats)
            if any(not isinstance(answer, BaseException) for answer in answers):
                self._committed()
            _answer(seats, answers)

    def _next(self) -> list[_Seat]:
        """One write, or all submissions that come before the next one that is none."""
        seats = [self._waiting.popleft()]
        while (
            isinstance(seats[0].what, Submission)
            and self._waiting
            and isinstance(self._waiting[0].what, Submission)
            and len(seats) < _MOST_TOGETHER
        ):
            seats.append(self._waiting.popleft())
        return seats

    def _carry_out(self, seats: list[_Seat]) -> Sequence[Any]:
        try:
            first = seats[0].what
            if isinstance(first, Submission):
                return self._ledger.submit_all([seat.what for seat in seats if isinstance(seat.what, Submission)])
            return [first()]
        except BaseException as error:
            # Nothing of it was carried out; each is told so.
            return [error] * len(seats)


def _answer(seats: list[_Seat], answers: Sequence[Any]) -> None:
    """Tell everybody, in one call for each event loop."""
    loops: dict[int, tuple[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]]] = {}
    for seat, answer in zip(seats, answers, strict=True):
        loops.setdefault(id(seat.loop), (seat.loop, []))[1].append((seat.future, answer))
    for loop, pairs in loops.values():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, pairs)


def _settle(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in pairs:
        if future.done():  # whoever asked has gone
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
