"""What may be removed after a time: rows that nobody's balance, lease or attempt depends on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, select

from orchestrator.ledger import tables

MOST_AT_ONCE = 5000
Statement = tuple[Any, list[dict[str, Any]]]


def deletions(connection: Connection, before_ms: int) -> tuple[list[Statement], bool]:
    """Statements that remove the oldest rows from before a time, and whether more are left."""
    found: list[Statement] = []
    more = False
    for table in (tables.events, tables.decisions):
        upto, is_full = _upto(connection, table, before_ms)
        if upto:
            found.append((delete(table).where(table.c.seq <= bindparam("upto")), [{"upto": upto}]))
        more = more or is_full
    keys = tables.idempotency
    if connection.execute(select(keys.c.key).where(keys.c.at_ms < before_ms).limit(1)).first() is not None:
        found.append((delete(keys).where(keys.c.at_ms < bindparam("before")), [{"before": before_ms}]))
    told = tables.notices
    done = (told.c.created_ms < before_ms, told.c.next_ms.is_(None))
    if connection.execute(select(told.c.id).where(*done).limit(1)).first() is not None:
        gone = delete(told).where(told.c.created_ms < bindparam("before"), told.c.next_ms.is_(None))
        found.append((gone, [{"before": before_ms}]))
    return found, more


def _upto(connection: Connection, table: Table, before_ms: int) -> tuple[int, bool]:
    """The number of the last row that goes, 0 for none. Book time never runs back: older rows have lower numbers."""
    query = select(table.c.seq, table.c.at_ms).order_by(table.c.seq).limit(MOST_AT_ONCE + 1)
    rows = connection.execute(query).all()
    old = [row.seq for row in rows[:-1] if row.at_ms < before_ms]  # the newest stays
    return (old[-1] if old else 0), len(old) == MOST_AT_ONCE
