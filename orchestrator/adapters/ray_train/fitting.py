"""Do a run's snapshots fit into its nodes' shared memory? Asked when the nodes are known and nothing has started.

Pure. The answer is for the size that the run starts at: a smaller one needs more per node, and is only warned of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from jobs.train.keeper.memory import Space, plan_memory
from jobs.train.keeper.topology import choose_mirrors
from orchestrator.adapters.ray_train.keeper_host import KeeperFacts
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)

# A part's header and, beside parameters, buffers: small, but a part is never exactly its share.
SLACK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperRoom:
    """A node's keeper. `host` tells keepers apart that share one machine's memory; `ranks`: how many fit at most."""

    node: str
    host: str
    ranks: int
    limit_bytes: int
    space: Space


def require_room(
    state_bytes: int,
    world_size: int,
    keepers: Sequence[KeeperRoom],
    *,
    domains: Mapping[str, str],
    mirrors: int,
) -> None:
    """Check the worst placement of `world_size` ranks: as many on a node, and on a machine, as fit there.

    Raises: UserError (never) with the first node's numbers if its keeper, or those of its machine, cannot fit.
    """
    part = -(-state_bytes // world_size) + SLACK_BYTES
    ranks = {one.node: min(one.ranks, world_size) for one in keepers}
    mirrored = dict.fromkeys(ranks, 0)
    for node, peers in choose_mirrors(ranks, domains, mirrors).peers.items():
        for peer in peers:
            mirrored[peer] += ranks[node]
    for one in sorted(keepers, key=lambda keeper: keeper.node):
        _require(one.node[:12], part, ranks[one.node], mirrored[one.node], one.limit_bytes, one.space)
    for host in sorted({one.host for one in keepers}):
        here = [one for one in keepers if one.host == host]
        if len(here) > 1:
            own = min(world_size, sum(ranks[one.node] for one in here))
            others = min(world_size * mirrors, sum(mirrored[one.node] for one in here))
            free = min(here, key=lambda one: one.space.free_bytes).space
            _require(
                f"{here[0].node[:12]} and its neighbours", part, own, others, sum(o.limit_bytes for o in here), free
            )


def _require(name: str, part: int, own: int, mirrored: int, limit_bytes: int, space: Space) -> None:
    plan_memory([part] * own, [part] * mirrored, node=name, limit_bytes=limit_bytes, space=space, flushes=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """A job's question to its keepers; `mirrors` as in its checkpoint settings."""

    state_bytes: int
    min_workers: int
    mirrors: int
    domains: Mapping[str, str]

    def require(self, world_size: int, keepers: Sequence[KeeperRoom]) -> None:
        """Refuse a start at `world_size` that cannot fit; warn when only the smallest size could not.

        Raises: UserError.
        """
        self._check(world_size, keepers)
        try:
            self._check(self.min_workers, keepers)
        except UserError as error:
            log.warning("snapshots would not fit at the smallest size", workers=self.min_workers, detail=str(error))

    def _check(self, world_size: int, keepers: Sequence[KeeperRoom]) -> None:
        require_room(self.state_bytes, world_size, keepers, domains=self.domains, mirrors=self.mirrors)


def keeper_room(node: str, facts: KeeperFacts, ranks: int) -> KeeperRoom:
    """A keeper's room from what it says of itself; `ranks`: how many fit on its node at most."""
    host = facts.address.rpartition(":")[0]
    return KeeperRoom(node=node, host=host, ranks=ranks, limit_bytes=facts.limit_bytes, space=facts.space)


def require_share(state_bytes: int, world_size: int, limit_bytes: int) -> None:
    """Check that a node with one rank of the largest group could keep its part within a limit, mirrors aside.

    Raises: UserError (never).
    """
    plenty = Space(total_bytes=1 << 62, free_bytes=1 << 62)
    one = KeeperRoom(node="of one rank", host="", ranks=1, limit_bytes=limit_bytes, space=plenty)
    require_room(state_bytes, world_size, [one], domains={}, mirrors=0)
