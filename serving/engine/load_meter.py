"""How busy a replica is with work that somebody waits for, over the last seconds. Written by the engine's thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serving.policy.scaling import ReplicaLoad

_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True)
class _Note:
    at_s: float
    online_s: float = 0.0
    slack: float = 1.0
    asked: int = 0
    shed: int = 0


class LoadMeter:
    """A sliding window; `load` may be read from any thread and is at most a step old. `num_asked`: online requests
    since the beginning, refused ones included."""

    def __init__(self, now_s: float) -> None:
        self._notes: deque[_Note] = deque()
        self._since_s = now_s
        self.num_asked = 0
        self._load, self._load_at_s = ReplicaLoad(), now_s

    def stepped(self, online_s: float, *, now_s: float) -> None:
        """A step is over, of which online rows took so much."""
        self._add(_Note(now_s, online_s=online_s), now_s)

    def finished(self, slack: float, *, now_s: float) -> None:
        """An online answer is out, with such a share of its allowance to spare."""
        self._add(_Note(now_s, slack=slack), now_s)

    def asked(self, *, shed: bool, now_s: float) -> None:
        """An online request has come, and may have been refused."""
        self.num_asked += 1
        self._add(_Note(now_s, asked=1, shed=int(shed)), now_s)

    def load(self, *, now_s: float) -> ReplicaLoad:
        """The last seconds; an engine that has not moved for as long is idle."""
        return self._load if now_s - self._load_at_s < _WINDOW_S else ReplicaLoad()

    def _add(self, note: _Note, now_s: float) -> None:
        self._notes.append(note)
        while self._notes[0].at_s < now_s - _WINDOW_S:
            self._notes.popleft()
        if now_s - self._load_at_s >= 0.2 or note.shed or note.slack < 0:
            self._load, self._load_at_s = self._measure(now_s), now_s

    def _measure(self, now_s: float) -> ReplicaLoad:
        asked = sum(note.asked for note in self._notes)
        return ReplicaLoad(
            online_busy=min(
                1.0, sum(n.online_s for n in self._notes) / max(0.2, min(_WINDOW_S, now_s - self._since_s))
            ),
            slack=min(note.slack for note in self._notes),
            shed=sum(note.shed for note in self._notes) / asked if asked else 0.0,
        )
