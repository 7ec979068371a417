"""How long this rank computes by itself in a pass: its forward pass, in which nobody waits for anybody.

Told every few seconds, so that it costs a step two looks at a clock a pass, and no collective. With ZeRO 3 the forward
pass gathers parameters, and so lasts as long on every rank as on the slowest: then nothing is measured.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from jobs.train.messages import Pace

TELL_EVERY_S = 5.0
# Events of a device that are not read yet: what a slow reader leaves over is not measured.
_MOST_PENDING = 1024


class PaceMeter(Protocol):
    """Measures passes; `step_ended` tells what was measured when it is time."""

    def by_itself(self) -> contextlib.AbstractContextManager[None]: ...

    def step_ended(self, step: int) -> None: ...


class NoPace:
    """Nothing is measured."""

    def by_itself(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def step_ended(self, step: int) -> None:
        """Nothing to tell."""


NO_PACE = NoPace()


class HostPace:
    """Passes whose work is done when they return: on processors."""

    def __init__(self, send: Callable[[Pace], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._send = send
        self._clock = clock
        self._passes, self._seconds = 0, 0.0
        self._told_at_s = clock()

    @contextlib.contextmanager
    def by_itself(self) -> Iterator[None]:
        began_s = self._clock()
        yield
        self._note(self._clock() - began_s)

    def step_ended(self, step: int) -> None:
        """Tell it, if the last time is long enough ago."""
        now_s = self._clock()
        if now_s - self._told_at_s < TELL_EVERY_S or not self._passes:
            return
        self._send(Pace(step=step, passes=self._passes, seconds=self._seconds))
        self._passes, self._seconds, self._told_at_s = 0, 0.0, now_s

    def _note(self, seconds: float) -> None:
        self._passes += 1
        self._seconds += seconds


class DevicePace(HostPace):
    """Passes that a device works off later: two events around each, read once they are over. The host never waits."""

    def __init__(self, send: Callable[[Pace], None]) -> None:
        super().__init__(send)
        self._pending: deque[tuple[Any, Any]] = deque(maxlen=_MOST_PENDING)

    @contextlib.contextmanager
    def by_itself(self) -> Iterator[None]:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._pending.append((begin, end))

    def step_ended(self, step: int) -> None:
        while self._pending and self._pending[0][1].query():
            begin, end = self._pending.popleft()
            self._note(begin.elapsed_time(end) / 1000)
        super().step_ended(step)


def pace_meter(device: torch.device, zero_stage: int, world_size: int, send: Callable[[Pace], None]) -> PaceMeter:
    """What measures here; nothing where there is nobody to compare with, or a pass waits for others."""
    if world_size < 2 or zero_stage == 3:
        return NO_PACE
    return DevicePace(send) if device.type == "cuda" else HostPace(send)
