"""Places kept for refused requests that were told when to come again: the hint is a promise, not a guess.

Reservations of a tenant stand in line, each as long as its request needs alone beside the rows that were admitted
before, and as often as there are lines, so that together they promise no more than the engine can do. Whoever asks
little stands in no line of who floods. Where few of those who are told to come do come, only that share is held back
from others.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from serving.policy.rows import Request, Row
from serving.policy.rules import Rules, alone_s
from serving.policy.tiers import Tier

# A retry is on time from its moment until so much later: clients round, wait in their own loops and cross a network.
GRACE_S = 1.0
# Who comes at all comes at once: room is kept from others only so long, and who comes later takes it all the same.
_ROOM_S = 0.1
_MAX_RESERVED = 256
_LEARNING = 0.1
_LEAST_FREE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """`request` may come from `at_s` on and is admitted then; `on_time` is the row it becomes at that moment."""

    request: Request
    at_s: float
    on_time: Row

    def row(self, now_s: float) -> Row:
        """The row it becomes: when it comes at its moment, or now when that has passed."""
        return self.on_time if self.at_s >= now_s else Row(request=moved(self.request, now_s))


class Reservations:
    """The promises that are open, earliest first. One thread owns it, and it is told the time."""

    def __init__(self) -> None:
        self._open: dict[str, Reservation] = {}
        self._line_end_s: dict[str, float] = {}
        self.show_rate = 1.0

    def __len__(self) -> int:
        return len(self._open)

    def claim(self, request: Request, *, now_s: float) -> bool:
        """Whether this request was promised a place now; the promise is kept once."""
        self._expire(now_s)
        reservation = self._open.get(request.retry_key) if request.retry_key else None
        if reservation is None or reservation.at_s > now_s:
            return False
        del self._open[reservation.request.retry_key or ""]
        self._learn(came=True)
        return True

    def supersede(self, request: Request) -> None:
        """A keystroke takes the places that older ones of its session were promised: those never come again."""
        if request.session is None or request.tier is not Tier.KEYSTROKE:
            return
        whose = (request.tenant, request.session)
        for key, held in list(self._open.items()):
            if (held.request.tenant, held.request.session) == whose and key != request.retry_key:
                del self._open[key]

    def line_end_s(self, tenant: str) -> float:
        """When the tenant's last promised request would be through; long ago without any."""
        return self._line_end_s.get(tenant, -math.inf)

    def promise_s(
        self, request: Request, *, earliest_s: float, rules: Rules, taken: float = 0.0, in_front: bool = False
    ) -> float:
        """From when on the request will be admitted; an earlier promise to it stands.

        `taken`: the part of the engine that rows need which were admitted before. `in_front`: it has stood in line
        once, came when it was told and found no room, so it does not stand in line again.
        Without a retry key, or with too many promises open, it is only the best guess.
        """
        if request.retry_key is None:
            return earliest_s
        if (earlier := self._open.get(request.retry_key)) is not None:
            return earlier.at_s
        line_end_s = self.line_end_s(request.tenant)
        at_s = earliest_s if in_front else max(earliest_s, line_end_s)
        if len(self._open) < _MAX_RESERVED:
            free = max(_LEAST_FREE, 1 - rules.config.batch_share - taken)
            num_lines = len(self._line_end_s.keys() | {request.tenant})
            needs_s = num_lines * alone_s(Row(request=request), rules) / free
            self._line_end_s[request.tenant] = max(at_s, line_end_s) + needs_s
            on_time = Row(request=moved(request, at_s))
            self._open[request.retry_key] = Reservation(request=request, at_s=at_s, on_time=on_time)
            self._open = dict(sorted(self._open.items(), key=lambda held: held[1].at_s))
        return at_s

    def expected(self, *, now_s: float, until_s: float) -> list[Reservation]:
        """Promises that fall due until then, thinned to the share that is kept by those who were told to come."""
        self._expire(now_s)
        in_time = itertools.takewhile(lambda r: r.at_s <= until_s, self._open.values())
        due = sorted((r for r in in_time if r.at_s >= now_s - _ROOM_S), key=lambda r: (r.at_s, r.request.id))
        rate = self.show_rate
        return [r for i, r in enumerate(due) if math.floor((i + 1) * rate + 0.5) > math.floor(i * rate + 0.5)]

    def _expire(self, now_s: float) -> None:
        gone = [key for key, _ in itertools.takewhile(lambda held: held[1].at_s + GRACE_S < now_s, self._open.items())]
        for key in gone:
            del self._open[key]
            self._learn(came=False)
        if len(self._line_end_s) > 1 or not self._open:
            waiting = {held.request.tenant for held in self._open.values()}
            self._line_end_s = {tenant: at_s for tenant, at_s in self._line_end_s.items() if tenant in waiting}

    def _learn(self, *, came: bool) -> None:
        self.show_rate += _LEARNING * (came - self.show_rate)


def moved(request: Request, arrival_s: float) -> Request:
    """The same request at another time, with as long to its deadline."""
    deadline_s = request.deadline_s + arrival_s - request.arrival_s
    return dataclasses.replace(request, arrival_s=arrival_s, deadline_s=deadline_s)
