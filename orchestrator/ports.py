"""What the control cycle asks of the outside world, in small pieces; the live system and the simulator implement each.

Values in and out are those of the policies: nothing here knows Ray, a database or a real clock. A port that cannot be
reached raises `UnreachableError`; it never answers with a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from orchestrator.policy.queueing.decisions import Decisions
from orchestrator.policy.queueing.orders import Order, Report
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.values import Snapshot
from orchestrator.spec.errors import FencedError, UnreachableError

__all__ = ["Capacity", "Clock", "Endpoints", "FencedError", "Ledger", "Order", "Report", "Runner", "UnreachableError"]


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

    def urgent(self) -> Mapping[str, int]:
        """Of the last `headroom`, devices for requests that cannot wait for a recall in good order, by pool."""
        ...

    def passing(self) -> Mapping[str, int]:
        """As of the last `headroom`, devices that endpoints take beside their leases until a roll-out is over, by
        pool."""
        ...

    def owed(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """By pool: the devices that endpoints with leases of their own are to hold, by holder, as of the last
        `headroom`; in that, only what they miss is counted."""
        ...


class Ledger(Protocol):
    """The durable books."""

    def record(self, reports: tuple[Report, ...], *, now_s: float) -> tuple[Report, ...]:
        """Enter what became of attempts, in one transaction; return the ends, which need not be reported any more.

        A report that was entered before changes nothing. Raises: FencedError.
        """
        ...

    def snapshot(self, pools: tuple[Pool, ...], *, now_s: float) -> Snapshot:
        """Everything that decides: jobs, leases, queues, tenants, claims and promises, as committed."""
        ...

    def commit(self, snapshot: Snapshot, decisions: Decisions) -> None:
        """Write decisions, leases, entries and orders in one transaction. Raises: FencedError."""
        ...

    def unsent(self) -> tuple[Order, ...]:
        """Orders that nobody has confirmed yet, oldest first; also those of an earlier process."""
        ...

    def sent(self, orders: tuple[Order, ...]) -> None:
        """The other side has taken these orders. Raises: FencedError."""
        ...


class Runner(Protocol):
    """Who starts, resizes and stops jobs."""

    def reports(self) -> tuple[Report, ...]:
        """What it sees of every attempt that it has and whose end was not acknowledged. Raises: UnreachableError."""
        ...

    def acknowledge(self, ended: tuple[Report, ...]) -> None:
        """These ends are in the books: the runner may forget them. Raises: UnreachableError."""
        ...

    def ask(self, order: Order) -> None:
        """Take an order: start or adopt, resize, stop. Returns at once; the outcome shows in later reports.

        Raises: UnreachableError.
        """
        ...
