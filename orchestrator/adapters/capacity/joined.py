"""Several sources of capacity as one, in the order in which a Cluster names its pools."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.policy.queueing.places import Pool
from orchestrator.ports import Capacity


class JoinedCapacity:
    """What all sources see. `order`: names of pools; a pool that no source knows is not there."""

    def __init__(self, sources: Iterable[Capacity], order: Iterable[str]) -> None:
        self._sources = tuple(sources)
        self._order = tuple(order)

    def observe(self) -> tuple[Pool, ...]:
        """All pools."""
        found = {pool.name: pool for source in self._sources for pool in source.observe()}
        return tuple(found[name] for name in self._order if name in found)
