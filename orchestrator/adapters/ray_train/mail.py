"""Messages to the hub, in the order in which they were sent.

An actor that runs coroutines may take one caller's calls in any order; on a busy machine a step was seen 40 s late,
after 36 that came later. So a sender numbers what it sends, and the hub keeps early ones back.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.adapters.ray_train.protocol import Item


@dataclass(frozen=True, slots=True)
class Sent:
    """How much a sender has sent before."""

    sender: str
    number: int


NOTHING = Sent("", 0)


class Outbox:
    """One sender's way to a hub. For one thread."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._sender = secrets.token_hex(8)
        self._number = 0

    @property
    def sent(self) -> Sent:
        """What a later call must not overtake."""
        return Sent(self._sender, self._number)

    def send(self, items: Sequence[Item]) -> None:
        """Pass items on to the driver; never blocks."""
        self._hub.post.remote(self.sent, list(items))
        self._number += 1


class Inbox:
    """Puts everybody's messages back into their order."""

    def __init__(self) -> None:
        self._next: dict[str, int] = defaultdict(int)
        self._early: dict[str, dict[int, list[Item]]] = defaultdict(dict)

    def put(self, sent: Sent, items: list[Item]) -> list[Item]:
        """What can be read now: nothing when something sent before is missing, else this and what waited for it."""
        early = self._early[sent.sender]
        early[sent.number] = items
        ready: list[Item] = []
        while self._next[sent.sender] in early:
            ready += early.pop(self._next[sent.sender])
            self._next[sent.sender] += 1
        return ready

    def has(self, sent: Sent) -> bool:
        """Whether everything sent before has come."""
        return sent.number <= self._next.get(sent.sender, 0)

    def forget(self, sent: Sent) -> list[Item]:
        """A sender that sends no more; what of his is left without what came before it."""
        self._next.pop(sent.sender, None)
        early = self._early.pop(sent.sender, {})
        return [item for number in sorted(early) for item in early[number]]
