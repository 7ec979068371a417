"""Capacity that comes and goes while the demo trains, by a script of steps: a growth, a notice, a power cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_train.events import Event, StepDone

NOTICE_S = 30.0
# A turn waits so long, as a share of all steps, for the one before to show in the world size.
PATIENCE = 0.2
# Below this many steps there is no time for weather between them.
MIN_STEPS = 40


@dataclass(frozen=True, slots=True)
class Turn:
    """When this share of the steps is done and the one before shows, something happens to the cluster."""

    share: float
    happen: Callable[[], None]


class Weather:
    """Call it with every event of the run, in the main thread: Ray ties a node's life to the thread that started it."""

    def __init__(self, cluster: LocalCluster, steps: int, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._steps = steps
        self._say = say
        self._added: list[str] = []
        self._size_before = 0
        self._turns = [Turn(0.15, self._grow), Turn(0.45, self._announce), Turn(0.7, self._cut)]
        if steps < MIN_STEPS:
            self._turns.clear()

    def __call__(self, event: Event) -> None:
        """Take in one event; a turn that is due happens now."""
        if not isinstance(event, StepDone) or not self._turns:
            return
        share, shows = event.step / self._steps, event.world_size != self._size_before
        if share >= self._turns[0].share + (0.0 if shows else PATIENCE):
            self._size_before = event.world_size
            self._turns.pop(0).happen()

    def _grow(self) -> None:
        self._say("two nodes with one CPU each join the cluster")
        self._added = [self._cluster.add_node(NodeSize(num_cpus=1)).node_id for _ in range(2)]

    def _announce(self) -> None:
        node = self._added.pop()
        self._say(f"the cloud announces that node {node[:8]} goes away in {NOTICE_S:.0f} s")
        self._cluster.drain_node(node, deadline_s=NOTICE_S)

    def _cut(self) -> None:
        node = self._added.pop()
        self._say(f"node {node[:8]} is killed without a word, its memory and disk with it")
        self._cluster.kill_node(node)
