"""Telling Ray that a node will go away, so that it schedules nothing new there."""

from __future__ import annotations

import time


def drain_node(gcs_address: str, node_id: str, *, deadline_s: float | None, reason: str) -> str:
    """Announce that a node goes away `deadline_s` seconds from now (None: nobody said when).

    Returns why Ray refuses, "" when it accepted; repeating it is safe, and the later deadline counts. Ray cannot take a
    drain back. Raises: Ray's RPC errors when the control store does not answer.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    ends_ms = 0 if deadline_s is None else int((time.time() + deadline_s) * 1000)
    accepted, why_not = GcsClient(address=gcs_address).drain_node(
        node_id, autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), reason, ends_ms
    )
    return "" if accepted else str(why_not) or "no reason given"
