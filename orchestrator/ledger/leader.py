"""Who leads: one row with a fencing token that rises with every change of leader, and a heartbeat."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from orchestrator.ledger import tables

_ROW = tables.leader.c.id == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads since which token, and when it was last heard of."""

    holder: str
    token: int
    heartbeat_ms: int
    clock_ms: int


def read_leader(connection: Connection) -> Leader:
    """The row as it is; migrations write it, with nobody in it."""
    columns = tables.leader.c
    query = select(columns.holder, columns.token, columns.heartbeat_ms, columns.clock_ms).where(_ROW)
    row = connection.execute(query).one()
    return Leader(holder=row.holder, token=row.token, heartbeat_ms=row.heartbeat_ms, clock_ms=row.clock_ms)


def seize(connection: Connection, holder: str, *, now_ms: int, patience_ms: int) -> Leader | None:
    """Become leader if nobody is, or the one who is was silent for `patience_ms`; None if somebody else leads.

    Whoever held the row before is fenced by the new token, also if it holds the same name.
    """
    before = read_leader(connection)
    if before.holder and before.holder != holder and now_ms - before.heartbeat_ms < patience_ms:
        return None
    values = {"holder": holder, "token": before.token + 1, "heartbeat_ms": now_ms}
    taken = update(tables.leader).where(_ROW, tables.leader.c.token == before.token).values(**values)
    if connection.execute(taken).rowcount != 1:
        return None
    return Leader(holder=holder, token=before.token + 1, heartbeat_ms=now_ms, clock_ms=before.clock_ms)


def beat(connection: Connection, token: int, *, now_ms: int) -> bool:
    """Say that we are there; False if we lead no more."""
    mine = update(tables.leader).where(_ROW, tables.leader.c.token == token)
    return connection.execute(mine.values(heartbeat_ms=now_ms)).rowcount == 1


def resign(connection: Connection, token: int) -> None:
    """Let the next one lead at once."""
    mine = update(tables.leader).where(_ROW, tables.leader.c.token == token)
    connection.execute(mine.values(holder="", heartbeat_ms=0))
