"""Values for what there is: levels of places, nodes, pools, and the windows in which pools are open."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.policy.windows import Window


class NodeState(enum.StrEnum):
    """What a node is good for. HELD: nothing new starts there, and what runs there goes if `leaves_at_s` says until
    when. LEAVING: what runs there must go, too."""

    OK = "ok"
    HELD = "held"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the tree of places, and the link between two places that differ at it; None = not known."""

    name: str
    bandwidth_bytes_per_s: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine as it was observed. `place` is the path from the widest level down to what holds the node.

    A node that has vanished is simply not in the snapshot any more. `leaves_at_s` is set for LEAVING, and for HELD
    where what runs there goes elsewhere.
    """

    name: str
    devices: int
    place: tuple[str, ...] = ()
    state: NodeState = NodeState.OK
    leaves_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Interchangeable devices: `resource` is what a worker asks for, `device` the kind it gets.

    `headroom` devices are kept free for endpoints. `owed`: devices that an endpoint which holds leases is to have, by
    holder: it comes down to them, and of the headroom it takes what it misses. `urgent`: so many of the headroom are
    wanted at once, for requests that nobody answers in time. `passing` devices are taken beside all leases for a
    moment, or are about to be: as far as that many are free, they are not given out, and nobody gives way for them.
    `in_sight` is False while nobody can say what the pool holds; what runs there goes on, and nothing new is started.
    `asked` devices were asked for and are not there: nothing is given out on them; `asked_why` says why they are not,
    where somebody knows.
    """

    name: str
    resource: str
    device: str
    micro_usd_per_device_hour: int
    nodes: tuple[Node, ...]
    headroom: int = 0
    owed: tuple[tuple[str, int], ...] = ()
    urgent: int = 0
    passing: int = 0
    in_sight: bool = True
    asked: int = 0
    asked_why: str = ""

    @property
    def observed(self) -> int:
        """Devices on the nodes that are there."""
        return sum(node.devices for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHours:
    """A window that jobs can name: `pools` it opens (none = all), and how long devices may be held after its close."""

    window: Window
    pools: frozenset[str] = frozenset()
    grace_s: float = 0.0


def flat_pool(
    name: str,
    devices: int,
    *,
    resource: str = "GPU",
    device: str = "gpu",
    micro_usd_per_device_hour: int = 0,
    headroom: int = 0,
) -> Pool:
    """A pool of which only the number of devices is known: one place that holds them all."""
    return Pool(
        name=name,
        resource=resource,
        device=device,
        micro_usd_per_device_hour=micro_usd_per_device_hour,
        nodes=(Node(name=name, devices=devices),),
        headroom=headroom,
    )
