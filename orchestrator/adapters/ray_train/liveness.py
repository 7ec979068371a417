"""Whether a node is gone, seconds before Ray says so.

Ray declares a node dead when its daemon has missed several health checks, 3 to 15 s after it was killed; until then
calls to actors there neither return nor fail. Whether something listens at the daemon's port is the kernel's answer:
it comes at once also from a node whose processes get no time, and no daemon means no actors, which end with theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping

import ray

# A machine that is gone answers nothing; one that is there answers within a round trip.
PROBE_S = 1.0
Address = tuple[str, int]


def raylet_addresses() -> dict[str, Address]:
    """Where the daemons of the nodes that Ray takes for alive listen."""
    return {
        node["NodeID"]: (node["NodeManagerAddress"], int(node["NodeManagerPort"]))
        for node in ray.nodes()
        if node["Alive"]
    }


def is_gone(node: str, addresses: Mapping[str, Address]) -> bool:
    """Whether nobody listens where this node's daemon did. Blocks for up to `PROBE_S`."""
    address = addresses.get(node)
    if address is None:
        return True
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=PROBE_S):
        return False
    return True


async def until_gone(node: str, addresses: Mapping[str, Address], *, every_s: float = 0.1) -> None:
    """Return once the node is gone, however long that takes. First looked at after `every_s`: most are there."""
    while True:
        await asyncio.sleep(every_s)
        if await asyncio.to_thread(is_gone, node, addresses):
            return
