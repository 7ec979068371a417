"""Plays recorded nodes against a local cluster, faster than they were recorded.

A removal is announced to the cluster the cloud's notice ahead, compressed like everything else, and comes as a kill:
every process by SIGKILL, then the node's folders. Must be called in the main thread: Ray ties a node's life to it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.adapters.ray_cluster import LocalNode, NodeSize
from orchestrator.adapters.replay.recording import ADD, REMOVE, NodeEvent

ANNOUNCE = "announce"
NOTICE_S = 120.0  # a cloud's two minutes


class Nodes(Protocol):
    """What a player does to a cluster; `LocalCluster` does it to real nodes."""

    def add_node(self, size: NodeSize | None = None) -> LocalNode: ...
    def drain_node(self, node_id: str, *, deadline_s: float, reason: str = ...) -> None: ...
    def kill_node(self, node_id: str) -> None: ...


class Player:
    """Plays `events`, `speed` times as fast. `notice_s` is in the recording's time; 0 kills without a word.

    `played` counts what was done, by kind; `busy_s` is the time that starting and ending nodes took.
    """

    def __init__(
        self, cluster: Nodes, node: NodeSize, events: Sequence[NodeEvent], *, speed: float, notice_s: float = NOTICE_S
    ) -> None:
        self._cluster = cluster
        self._size = node
        self._notice_s = notice_s / speed
        self._nodes: dict[str, str] = {}
        self._first = [event for event in events if event.at_s == 0.0]
        self._due = sorted(self._schedule([event for event in events if event.at_s > 0.0], speed))
        self.played: Counter[str] = Counter()
        self.busy_s = 0.0

    def _schedule(self, events: Sequence[NodeEvent], speed: float) -> list[tuple[float, int, str, str]]:
        """When to do what to whom; events of one moment keep their order, and a notice comes before what it is of."""
        due = []
        for order, event in enumerate(events):
            at_s = event.at_s / speed
            due.append((at_s, order, event.event, event.node))
            if event.event == REMOVE and self._notice_s > 0:
                due.append((max(at_s - self._notice_s, 0.0), -1, ANNOUNCE, event.node))
        return due

    def start(self) -> None:
        """Bring up what was there at the very beginning."""
        for event in self._first:
            self._do(event.event, event.node)

    @property
    def next_at_s(self) -> float:
        """When the next event is due, in seconds from the beginning; infinite when all are played."""
        return self._due[0][0] if self._due else float("inf")

    def play_due(self, elapsed_s: float) -> None:
        """Do everything that was due by now."""
        while self.next_at_s <= elapsed_s:
            _, _, what, node = self._due.pop(0)
            self._do(what, node)

    def play(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Everything after the beginning, for `seconds` of real time."""
        began_s = clock()
        while (elapsed_s := clock() - began_s) < seconds:
            self.play_due(elapsed_s)
            sleep(max(0.0, min(self.next_at_s, seconds) - (clock() - began_s)))

    def _do(self, what: str, node: str) -> None:
        began_s = time.monotonic()
        if what == ADD:
            self._nodes[node] = self._cluster.add_node(self._size).node_id
        elif node not in self._nodes:
            return
        elif what == ANNOUNCE:
            self._cluster.drain_node(self._nodes[node], deadline_s=self._notice_s)
        else:
            self._cluster.kill_node(self._nodes.pop(node))
        self.played[what] += 1
        self.busy_s += time.monotonic() - began_s
