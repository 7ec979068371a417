"""A chore of the leader: pools that can be sized have the nodes that jobs could use, and give back what nobody uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from orchestrator.cycle import decide
from orchestrator.ledger.repository import Ledger
from orchestrator.policy.queueing.wanted import Need, Room, grown, needs
from orchestrator.ports import Capacity, Endpoints, UnreachableError

log = structlog.get_logger(__name__)

EVERY_S = 5.0
"""Between two looks: nodes take minutes to come, and a look decides twice."""


class Sizable(Protocol):
    """Pools that can be sized, as `WorkerGroups`."""

    def rooms(self) -> dict[str, Room]:
        """How far each pool could grow now. Raises: UnreachableError."""
        ...

    def settle(self, needs: Mapping[str, Need], now_s: float) -> None:
        """Set pools to what is needed. Raises: UnreachableError."""
        ...


class Scaling:
    """`sizable`: what can be sized under the Cluster that holds. Who is not reached is asked again; nobody waits."""

    def __init__(
        self, sizable: Callable[[], Sequence[Sizable]], capacity: Capacity, endpoints: Endpoints, ledger: Ledger
    ) -> None:
        self._sizable = sizable
        self._capacity, self._endpoints, self._ledger = capacity, endpoints, ledger
        self._next_s = float("-inf")
        self._trouble = ""

    def __call__(self, now_s: float) -> float | None:
        """Look if it is time; when to look again, None = there is nothing to size. Raises: what the ledger raises."""
        here = self._sizable()
        if not here:
            return None
        if 0 < self._next_s - now_s <= EVERY_S:
            return self._next_s
        self._next_s = now_s + EVERY_S
        try:
            self._look(here, now_s)
            self._say("")
        except UnreachableError as error:
            self._say(str(error))
        return self._next_s

    def _look(self, here: Iterable[Sizable], now_s: float) -> None:
        rooms = {one: one.rooms() for one in here}
        every = {name: room for found in rooms.values() for name, room in found.items()}
        if not every:
            return
        kept, owed = self._endpoints.headroom(), self._endpoints.owed()
        pools = tuple(
            replace(pool, headroom=kept.get(pool.name, 0), owed=owed.get(pool.name, ()))
            for pool in self._capacity.observe()
        )
        # Of what cannot be seen nobody knows whether it is needed.
        every = {pool.name: every[pool.name] for pool in pools if pool.in_sight and pool.name in every}
        snapshot = self._ledger.snapshot(pools, now_s=now_s)
        wanted = needs(snapshot, decide(snapshot), decide(grown(snapshot, every)), every)
        for one in rooms:
            one.settle({name: wanted[name] for name in rooms[one] if name in wanted}, now_s)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("worker groups are not sized; trying again", why=trouble)
        self._trouble = trouble
