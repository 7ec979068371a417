"""Nodes that are held back, by a person or for their health: rows that outlive every process."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from orchestrator.ledger import tables
from orchestrator.ledger.change import Change
from orchestrator.ledger.errors import LedgerError
from orchestrator.policy.node_health import HoldCause, NodeHold
from orchestrator.spec.errors import ExitCode

HELD, RELEASED = "node-held", "node-released"
Holds = dict[str, NodeHold]


def load_node_holds(connection: Connection) -> Holds:
    """All of them, by node."""
    rows = connection.execute(select(tables.node_holds)).mappings()
    return {
        row["node"]: NodeHold(
            node=row["node"],
            cause=HoldCause(row["cause"]),
            since_s=row["since_ms"] / 1000,
            until_s=None if row["until_ms"] is None else row["until_ms"] / 1000,
            detail=row["detail"],
            actor=row["actor"],
        )
        for row in rows
    }


def hold_node(change: Change, hold: NodeHold, held: Holds) -> Holds:
    """Hold a node back, or change for how long and why; those that are held afterwards."""
    table = tables.node_holds
    until_ms = None if hold.until_s is None else round(hold.until_s * 1000)
    row = {
        "node": hold.node,
        "cause": hold.cause.value,
        "since_ms": change.now_ms,
        "until_ms": until_ms,
        "detail": hold.detail,
        "actor": change.actor,
    }
    if hold.node in held:
        change.others.append((delete(table).where(table.c.node == hold.node), [{}]))
    change.others.append((insert(table), [row]))
    change.event(HELD, node=hold.node, cause=hold.cause.value, until_ms=until_ms, detail=hold.detail)
    since_s, until_s = change.now_ms / 1000, None if until_ms is None else until_ms / 1000
    kept = NodeHold(
        node=hold.node, cause=hold.cause, since_s=since_s, until_s=until_s, detail=hold.detail, actor=change.actor
    )
    return {**held, hold.node: kept}


def release_node(change: Change, node: str, detail: str, held: Holds) -> Holds:
    """Let a node go. Raises: LedgerError if it is not held."""
    if node not in held:
        known = ", ".join(sorted(held)) or "none"
        problem = f"node {node!r} is not held back; held back are: {known}"
        raise LedgerError(problem, code=ExitCode.UNKNOWN, next_step="See 'tide node ls'")
    table = tables.node_holds
    change.others.append((delete(table).where(table.c.node == node), [{}]))
    change.event(RELEASED, node=node, detail=detail)
    return {name: hold for name, hold in held.items() if name != node}
