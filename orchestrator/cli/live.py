"""The live line of a run: step, loss, bits per byte, tokens/s and world size, as events come.

On a terminal one line that is rewritten, and a line that stays for every change of the worker group; elsewhere a plain
line every few seconds. Always on stderr.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Event,
    Noticed,
    Outcome,
    Status,
    StatusChanged,
    StepDone,
)

# Without a terminal: often enough to see that it lives, seldom enough to read the log.
PLAIN_EVERY_S = 5.0
_SPEED_STEPS = 20


class LiveLine:
    """A context manager; call it with every event of the run."""

    def __init__(self, console: Console, steps: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._steps = steps
        self._clock = clock
        self._recent: deque[StepDone] = deque(maxlen=_SPEED_STEPS)
        self._said_s = float("-inf")
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> LiveLine:
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("starting", total=self._steps)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        if self._recent:
            self._say(self._line(self._recent[-1]))

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case StepDone():
                self._step(event)
            case AttemptOpened() | AttemptClosed() | Noticed() | StatusChanged():
                if sentence := _sentence(event):
                    self._say(sentence)
            case _:
                pass

    def _step(self, event: StepDone) -> None:
        self._recent.append(event)
        line = self._line(event)
        if self._progress:
            self._progress.update(self._task, completed=event.step, description=line)
        elif self._clock() - self._said_s >= PLAIN_EVERY_S:
            self._said_s = self._clock()
            self._say(line)

    def _line(self, event: StepDone) -> str:
        busy_s = sum(step.step_s for step in self._recent)
        speed = sum(step.num_tokens for step in self._recent) / busy_s if busy_s > 0 else 0.0
        bits = event.metrics.get("bits_per_byte")
        parts = [f"step {event.step}/{self._steps}", f"loss {event.loss:.3f}"]
        parts += [f"{bits:.3f} bits/byte"] if bits is not None else []
        parts += [f"{speed:,.0f} tokens/s", _workers(event.world_size)]
        return "  ".join(parts)

    def _say(self, line: str) -> None:
        self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _sentence(event: AttemptOpened | AttemptClosed | Noticed | StatusChanged) -> str:
    """What a person should see stay on the screen; empty for what the line itself shows."""
    match event:
        case AttemptOpened(cause=cause, world_size=size, start_step=step, source=source):
            where = f" with the state from {source}" if source else ""
            return f"attempt {event.attempt} ({cause}): {_workers(size)} from step {step}{where}"
        case AttemptClosed(outcome=Outcome.FAILED, cause=cause, detail=detail):
            return f"attempt {event.attempt} ended: {cause}: {detail}"
        case Noticed(node_id=node, deadline_s=deadline_s):
            when = "soon" if deadline_s is None else f"in {deadline_s:.0f} s"
            return f"notice: node {node[:8]} goes away {when}"
        case StatusChanged(status=Status.WAITING, detail=detail):
            return f"waiting: {detail}"
        case _:
            return ""


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
