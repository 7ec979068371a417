"""From the engine thread to event loops: one wake-up a step and loop, however many rows it served."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from serving.engine.generation import Answer, Event


class Mailbox:
    """Collects events and hands them over together."""

    def __init__(self) -> None:
        self._letters: defaultdict[asyncio.AbstractEventLoop, list[tuple[Answer, Event]]] = defaultdict(list)

    def add(self, answer: Answer, event: Event) -> None:
        """Note an event for an answer; it keeps its place among the answer's events."""
        self._letters[answer.loop].append((answer, event))

    def send(self) -> None:
        """Deliver everything that was added. A loop that is closed has no readers left."""
        letters, self._letters = self._letters, defaultdict(list)
        for loop, events in letters.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:
                if not loop.is_closed():
                    raise


def _deliver(events: list[tuple[Answer, Event]]) -> None:
    for answer, event in events:
        answer.deliver(event)
