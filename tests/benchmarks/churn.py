"""Recorded spot adds and removes, played against a local cluster: fewer nodes, faster, notice included."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize

# A cloud's two minutes, compressed like everything else.
NOTICE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """At `at_s` of the recording, a node named `node` came ("add") or went ("remove")."""

    at_s: float
    event: str
    node: str


def node_events(path: Path, *, share: int, seconds: float, remainder: int = 0) -> list[NodeEvent]:
    """What happened to every `share`-th node in the first `seconds`; nodes are numbered in order of their coming."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row["node"] for row in rows))}
    return [
        NodeEvent(at_s=int(row["t_ms"]) / 1000, event=row["event"], node=row["node"])
        for row in rows
        if numbers[row["node"]] % share == remainder and int(row["t_ms"]) / 1000 <= seconds
    ]


class Player:
    """Plays events against a cluster, `speed` times as fast. A removal is announced to the cluster the cloud's notice
    ahead (compressed, too), and comes as a kill."""

    def __init__(self, cluster: LocalCluster, node: NodeSize, *, speed: float) -> None:
        self._cluster = cluster
        self._size = node
        self._speed = speed
        self._nodes: dict[str, str] = {}

    def start(self, events: list[NodeEvent]) -> None:
        """Bring up what was there at the very beginning."""
        for event in events:
            if event.at_s == 0.0:
                self._do(event.event, event.node)

    def play(self, events: list[NodeEvent], seconds: float) -> None:
        """Everything after the beginning, for `seconds` of real time."""
        due = [(event.at_s / self._speed, event.event, event.node) for event in events if event.at_s > 0.0]
        notices = [
            (max(at_s - NOTICE_S / self._speed, 0.0), "announce", node) for at_s, what, node in due if what == "remove"
        ]
        began_s = time.monotonic()
        for at_s, what, node in sorted(due + notices):
            if at_s >= seconds:
                break
            _sleep_until(began_s + at_s)
            self._do(what, node)
        _sleep_until(began_s + seconds)

    def _do(self, what: str, node: str) -> None:
        match what:
            case "add":
                self._nodes[node] = self._cluster.add_node(self._size).node_id
            case "announce" if node in self._nodes:
                self._cluster.drain_node(self._nodes[node], deadline_s=NOTICE_S / self._speed)
            case "remove" if node in self._nodes:
                self._cluster.kill_node(self._nodes.pop(node))


def _sleep_until(at_s: float) -> None:
    time.sleep(max(at_s - time.monotonic(), 0.0))
