"""A notice and where notices come from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class NoticeKind(enum.StrEnum):
    """What will happen to the node, or may."""

    PREEMPT = "preempt"  # spot capacity is taken back
    TERMINATE = "terminate"  # the node is shut down on somebody's order
    MAINTENANCE = "maintenance"  # the host is serviced; the node stops, restarts or freezes
    REBALANCE = "rebalance"  # the risk of preemption has risen; nothing is decided yet
    DRAIN = "drain"  # somebody here asked for the node


# Worth knowing, but no reason to stop by itself: nothing has been decided.
ADVISORY = frozenset({NoticeKind.REBALANCE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One event that takes this node away.

    `source`: the name of the source. `id`: the same for the same event, however often it is seen. `deadline_s`: seconds
    from the moment of reading until the node may be gone; None if nobody said, 0 if it is going now. `detail` is for
    people. `advisory`: nothing is decided; preparing is wise, stopping is not needed.
    """

    kind: NoticeKind
    source: str
    id: str
    deadline_s: float | None
    detail: str
    advisory: bool = False


class SourceError(Exception):
    """The source could not be asked, or answered nonsense; asking again later may help."""


class SourceAbsentError(SourceError):
    """There is nobody to ask: the address does not answer at all, or is somebody else's."""


class NoticeSource(Protocol):
    """One place that announces the end of this node."""

    @property
    def name(self) -> str:
        """For logs and `Notice.source`."""
        ...

    def poll(self, timeout_s: float) -> tuple[Notice, ...]:
        """What is announced now; waits up to `timeout_s` for news where the source can wait, else answers at once.

        Raises: SourceError, SourceAbsentError.
        """
        ...

    def close(self) -> None:
        """Let go of everything; a `poll` under way in another thread ends soon."""
        ...
