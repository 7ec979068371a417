"""What the demo shows while it runs: stages with their times on stderr, spans for the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console

from orchestrator.report import Span


class Stages:
    """Tells stages as they come and remembers when each was, in seconds since the Unix epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._times: list[tuple[str, float, float]] = []

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Say what begins, and what it took once it is over; an error is left to the caller."""
        began_s = time.time()
        self.console.print(f"[bold cyan]▸ {name}[/]  {what}", highlight=False)
        try:
            yield
        finally:
            ended_s = time.time()
            self._times.append((name, began_s, ended_s))
            self.console.print(f"  [dim]{name}: {ended_s - began_s:.1f} s[/]", highlight=False)

    def say(self, line: str) -> None:
        """One plain line under the current stage."""
        self.console.print(f"  {line}", highlight=False, markup=False)

    def spans(self, zero_s: float) -> list[Span]:
        """The stages so far on one lane, relative to `zero_s`."""
        return [
            Span(lane="demo", label=name, start_s=began_s - zero_s, end_s=ended_s - zero_s, kind="other")
            for name, began_s, ended_s in self._times
        ]

    @property
    def total_s(self) -> float:
        """Seconds from the first stage's beginning to the last one's end."""
        return self._times[-1][2] - self._times[0][1] if self._times else 0.0
