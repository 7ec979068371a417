"""Names of a run's actors in Ray, and how to find them. One namespace, so that two drivers can meet."""

from __future__ import annotations

import hashlib

NAMESPACE = "tideline"


def hub_name(session: str) -> str:
    """The hub of one driver session of a run."""
    return f"tide-hub-{session}"


def agent_name(session: str, node_id: str) -> str:
    """The agent of a run's session on one node."""
    return f"tide-agent-{session}-{node_id[:16]}"


def short_id(text: str) -> str:
    """Eight hex digits that stand for `text` where paths must be short: a socket's path ends at 107 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
