"""When a replica that leaves gives up which work.

Online answers always end by themselves, within their tier's timeout, and Serve waits for them. Rows of batches go back
at the first sign, so that others begin them. A batch request somebody waits for gets the drain time and is then told to
come again, which Serve's own end of a replica would not do: that one just breaks the connection.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

# Enough to tell clients before their node is gone.
_BEFORE_NODE_GOES_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """`stopping`: Serve sends nothing more and waits for what runs. `node_goes_at_s`: when the node does, if it was
    announced; infinite when no time was named."""

    stopping: bool = False
    node_goes_at_s: float | None = None


class Leave(enum.IntEnum):
    """How far a replica has given up, in this order."""

    NOTHING = 0
    ROWS = 1
    BATCH_REQUESTS = 2


class Departure:
    """Follows the signs of one replica; `drain_s` is the file's `replicas.drain`."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._end_at_s = math.inf
        self._is_stopping = False

    def give_up(self, signs: Signs, *, now_s: float) -> Leave:
        """What is to be given up by now; more and more, never less."""
        if signs.stopping and not self._is_stopping:
            self._is_stopping = True
            self._end_at_s = min(self._end_at_s, now_s + self._drain_s)
        if signs.node_goes_at_s is not None:
            self._end_at_s = min(self._end_at_s, signs.node_goes_at_s - _BEFORE_NODE_GOES_S)
        if now_s >= self._end_at_s:
            return Leave.BATCH_REQUESTS
        return Leave.ROWS if signs.stopping or signs.node_goes_at_s is not None else Leave.NOTHING
