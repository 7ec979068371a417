"""What the control cycle asks of the outside world, in small pieces; the live system and the simulator implement each.

Values in and out are those of the policies: nothing here knows Ray, a database or a real clock. A port that cannot be
reached raises `UnreachableError`; it never answers with a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.policy.queueing.decisions import Admit, Decisions, Evict, Resize
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.values import Snapshot


class UnreachableError(Exception):
    """The other side does not answer. Nothing is known of whether it acted; asking again is safe."""


class FencedError(Exception):
    """Somebody else leads by now: what was decided here must not be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Something to be done outside. `id` follows from job and attempt alone, so an order may be repeated."""

    id: str
    what: Admit | Resize | Evict


class Clock(Protocol):
    """Time."""

    def now_s(self) -> float:
        """UTC seconds."""
        ...


class Capacity(Protocol):
    """What devices there are."""

    def observe(self) -> tuple[Pool, ...]:
        """All pools with their nodes; one that cannot be seen is named as out of sight, with its nodes as last seen."""
        ...


class Endpoints(Protocol):
    """What serving needs."""

    def headroom(self) -> Mapping[str, int]:
        """Devices to be kept free, by pool; pools that are not named keep none."""
        ...


class Ledger(Protocol):
    """The durable books."""

    def snapshot(self, pools: tuple[Pool, ...], *, now_s: float) -> Snapshot:
        """Everything that decides: jobs, leases, queues, tenants, claims and promises, as committed."""
        ...

    def commit(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Write decisions, leases, entries and orders in one transaction. Raises: FencedError."""
        ...

    def unsent(self) -> tuple[Order, ...]:
        """Orders that nobody has confirmed yet, oldest first; also those of an earlier process."""
        ...

    def sent(self, order: Order) -> None:
        """The other side has taken an order. Raises: FencedError."""
        ...


class Runner(Protocol):
    """Who starts, resizes and stops jobs."""

    def ask(self, order: Order) -> None:
        """Take an order: start or adopt, resize, stop. Returns at once; the outcome shows in the next snapshot.

        Raises: UnreachableError.
        """
        ...
