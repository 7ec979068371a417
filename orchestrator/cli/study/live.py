"""A study while it runs: a table that follows on a terminal, one line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live

from orchestrator.cli.study.tables import study_table
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study
from orchestrator.study.events import AttemptOver, Began, Closed, Ending, Event, Reported, TrialOver
from orchestrator.study.record import StudyRecord
from orchestrator.study.summary import summary

_REDRAW_EVERY_S = 0.5
_LINES_AROUND = 8


class LiveStudy:
    """Call it with every event; a context manager around the run."""

    def __init__(
        self, console: Console, study: Study, rates: Rates, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._study, self._rates, self._clock = console, study, rates, clock
        self._drawn_s = float("-inf")
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> LiveStudy:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event, record: StudyRecord) -> None:
        """Take in one event."""
        if self._live is None:
            if sentence := _sentence(event, self._study.spec.metric):
                self._console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)
        elif self._clock() - self._drawn_s >= _REDRAW_EVERY_S or isinstance(event, Closed):
            self._drawn_s = self._clock()
            values: dict[str, Any] = summary(self._study, record, self._rates, running=True)
            room = max(3, self._console.size.height - _LINES_AROUND)
            self._live.update(study_table(values, most_rows=room), refresh=True)


def _sentence(event: Event, metric: str) -> str:
    match event:
        case Began(attempt=attempt, step=step, workers=workers):
            size = "1 worker" if workers == 1 else f"{workers} workers"
            return f"{event.trial} attempt {attempt}: {size} from step {step}"
        case Reported(step=step, ruling=ruling):
            value = event.metrics.get(metric)
            shown = "none" if value is None else f"{value:.4f}"
            return f"{event.trial} step {step}: {metric} {shown}, {ruling}"
        case AttemptOver(why=why) if why in (Ending.LOST, Ending.FAILED, Ending.ABANDONED):
            return f"{event.trial} attempt {event.attempt} {why} at step {event.step}: {event.detail}"
        case TrialOver():
            return f"{event.trial} {event.state}: {event.detail}"
        case Closed():
            return f"closed: {event.why}: {event.detail}"
        case _:
            return ""
