"""One pool in a decision in the making: what is free on every node, and in which places those nodes stand.

Shapes: N nodes of the pool, sorted by place and name, so that every place is one contiguous slice of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from orchestrator.policy.queueing.places import Node, NodeState, Pool

Devices = NDArray[np.int64]
Taken = tuple[tuple[int, int], ...]
"""(node index, amount) pairs, ascending."""


@dataclass(slots=True)
class Ground:
    """`whole`: all devices of every node, whoever has them. `free`: those that nobody is charged for on nodes that take
    new work; `held_back`: the same on held nodes.

    `draining`: devices on their way back that nobody has a claim to yet; `claimed`: those that somebody has one to.
    `total_free` is what may be given out: free devices less the endpoints' headroom and those that are passing.
    """

    pool: Pool
    names: tuple[str, ...]
    index: dict[str, int]
    paths: tuple[tuple[str, ...], ...]
    starts: tuple[NDArray[np.int64], ...]
    ok: NDArray[np.bool_]
    whole: Devices
    free: Devices
    held_back: Devices
    draining: Devices
    claimed: Devices
    total_free: int = 0
    drains: list[tuple[float, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, pool: Pool) -> Ground:
        """The pool with nothing charged yet; nodes that leave take nothing new."""
        layout = _layout(pool.nodes)
        return cls(
            pool=pool,
            names=layout.names,
            index=layout.index,
            paths=layout.paths,
            starts=layout.starts,
            ok=layout.ok,
            whole=layout.whole,
            free=layout.devices.copy(),
            held_back=layout.held.copy(),
            draining=np.zeros(len(layout.names), dtype=np.int64),
            claimed=np.zeros(len(layout.names), dtype=np.int64),
        )

    def charge(self, nodes: Iterable[tuple[str, int]]) -> None:
        """Somebody holds devices on these nodes; what stood on a vanished node holds nothing."""
        for name, devices in nodes:
            at = self.index.get(name)
            if at is not None:
                self.free[at] -= devices
                self.held_back[at] -= devices

    def settle(self) -> None:
        """Close the books of what is charged: count what is free, once, for the fast checks that follow."""
        np.maximum(self.free, 0, out=self.free)
        np.maximum(self.held_back, 0, out=self.held_back)
        free = int(self.free.sum()) - self.pool.headroom
        self.total_free = free - min(self.pool.passing, max(0, free))

    def take(self, taken: Taken) -> None:
        """Give free devices out."""
        for at, devices in taken:
            self.free[at] -= devices
            self.total_free -= devices
            assert self.free[at] >= 0, "no node gives out more than it has"

    def give(self, taken: Taken) -> None:
        """Take devices back that were given out in this decision."""
        for at, devices in taken:
            self.free[at] += devices
            self.total_free += devices

    def drain(self, at: int, devices: int, until_s: float) -> None:
        """Expect devices back; those of nodes that take nothing new are of no use."""
        if self.ok[at]:
            self.draining[at] += devices
            self.drains.append((until_s, at, devices))

    def claim(self, at: int, *, coming: int, drained: int, free: int) -> None:
        """Set devices of a node aside for a claim: `coming` ones (of which `drained` are draining already), and
        `free` ones."""
        self.draining[at] -= drained
        self.claimed[at] += coming
        self.take(((at, free),))

    def drained_by_s(self, at: int) -> float:
        """When everything that drains on a node is back."""
        return max(until_s for until_s, node, _ in self.drains if node == at)

    @property
    def depth(self) -> int:
        """Levels of places here, nodes included."""
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class _Layout:
    """What follows from the nodes of a pool alone; nobody writes to it. `whole`: devices of all nodes, `devices` those
    of nodes that take new work, `held` those of held ones."""

    names: tuple[str, ...]
    index: dict[str, int]
    paths: tuple[tuple[str, ...], ...]
    starts: tuple[NDArray[np.int64], ...]
    ok: NDArray[np.bool_]
    whole: Devices
    devices: Devices
    held: Devices


@lru_cache(maxsize=64)
def _layout(given: tuple[Node, ...]) -> _Layout:
    """Nodes change seldom and every decision needs them in order."""
    nodes = sorted(given, key=lambda node: (*node.place, node.name))
    paths = tuple((*node.place, node.name) for node in nodes)
    devices = np.array([node.devices for node in nodes], dtype=np.int64)
    ok = np.array([node.state is NodeState.OK for node in nodes], dtype=bool)
    held = np.array([node.state is NodeState.HELD for node in nodes], dtype=bool)
    names = tuple(node.name for node in nodes)
    return _Layout(
        names=names,
        index={name: at for at, name in enumerate(names)},
        paths=paths,
        starts=_starts(paths),
        ok=ok,
        whole=devices,
        devices=np.where(ok, devices, 0),
        held=np.where(held, devices, 0),
    )


def _starts(paths: Sequence[tuple[str, ...]]) -> tuple[NDArray[np.int64], ...]:
    """For every depth, the first node of every place at that depth; depth 0 is everything, the last one each node."""
    deepest = max((len(path) for path in paths), default=1)
    levels = []
    for depth in range(deepest):
        prefixes = [path[:depth] for path in paths]
        first = [at for at, prefix in enumerate(prefixes) if at == 0 or prefix != prefixes[at - 1]]
        levels.append(np.array(first, dtype=np.int64))
    return (*levels, np.arange(len(paths), dtype=np.int64))
