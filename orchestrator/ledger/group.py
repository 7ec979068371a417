"""Group commit: requests that come while a transaction is on its way share the next one, and its fsync."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


@dataclass(slots=True)
class _Seat(Generic[A, B]):
    request: A
    done: bool = False
    answer: B | BaseException | None = None


@dataclass(slots=True)
class GroupCommit(Generic[A, B]):
    """Whoever gets the turn carries out everybody's request. `carry_out` answers each with a value or an error."""

    carry_out: Callable[[Sequence[A]], Sequence[B | BaseException]]
    most: int = 512
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _queue: list[_Seat[A, B]] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: A) -> B:
        """Carry out a request, with others or alone; raises the error it was answered with."""
        seat: _Seat[A, B] = _Seat(request)
        with self._mutex:
            self._queue.append(seat)
        while not seat.done:
            with self._turn:
                if not seat.done:
                    self._carry_out()
        if isinstance(seat.answer, BaseException):
            raise seat.answer
        return seat.answer  # type: ignore[return-value]

    def _carry_out(self) -> None:
        with self._mutex:
            seats, self._queue = self._queue[: self.most], self._queue[self.most :]
        try:
            answers = self.carry_out([seat.request for seat in seats])
        except BaseException as error:
            # Nobody's request was carried out; each is told so.
            answers = [error] * len(seats)
        for seat, answer in zip(seats, answers, strict=True):
            seat.answer, seat.done = answer, True
