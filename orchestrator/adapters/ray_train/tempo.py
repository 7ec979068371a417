"""How fast a run goes and what its stalls cost, by its own events. A pure fold, like the record."""

from __future__ import annotations

from collections import deque
from statistics import median

from orchestrator.adapters.ray_train.events import AttemptClosed, Event, Outcome, StepDone, StopAsked
from orchestrator.adapters.ray_train.governor import Progress
from orchestrator.policy.lending.values import p95

STEPS_FOR_SPEED = 20
STALLS_KEPT = 5
STOPS_KEPT = 20


class Tempo:
    """Observe events in order; ask for `progress` any time."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._recent_s: deque[float] = deque(maxlen=STEPS_FOR_SPEED)
        self._stalls_s: deque[float] = deque(maxlen=STALLS_KEPT)
        self._stops_s: deque[float] = deque(maxlen=STALLS_KEPT)
        self._ends_s: deque[float] = deque(maxlen=STOPS_KEPT)
        self._last: StepDone | None = None
        self._asked: StopAsked | None = None
        self._planned = False

    @property
    def steps_done(self) -> int:
        """The newest step seen."""
        return self._last.step if self._last else 0

    def observe(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case StepDone():
                self._step(event)
            case StopAsked():
                self._asked = event
            case AttemptClosed():
                self._planned = event.outcome is Outcome.PLANNED
                # Of a process that was killed while it stopped, nobody knows when that was over.
                if self._asked is not None and self._asked.attempt == event.attempt:
                    self._stopped(max(0.0, event.at_s - self._asked.at_s))  # clocks are set back
                self._asked = None
            case _:
                pass

    def _stopped(self, took_s: float) -> None:
        # Who was killed at the end of its grace would have taken longer still: slow, and nothing to take a median of.
        self._ends_s.append(took_s)
        if self._planned:
            self._stops_s.append(took_s)

    def _step(self, event: StepDone) -> None:
        if self._last is None or event.attempt == self._last.attempt:
            self._recent_s.append(event.step_s)
        else:
            self._recent_s.clear()
            if self._planned:
                self._stalls_s.append(event.at_s - event.step_s - self._last.at_s)
        self._last = event

    def progress(self) -> Progress:
        """Seconds of training left at the present speed, the median of the last planned stalls and stops, and how long
        a slow stop takes."""
        left_s = None
        if self._recent_s:
            left_s = max(0, self._steps - self.steps_done) * sum(self._recent_s) / len(self._recent_s)
        return Progress(
            remaining_s=left_s,
            stall_s=median(self._stalls_s) if self._stalls_s else None,
            stop_s=median(self._stops_s) if self._stops_s else None,
            slow_stop_s=p95("stop", self._ends_s) if self._ends_s else None,
        )
