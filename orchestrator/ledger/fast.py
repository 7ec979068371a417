"""Statements that run thousands of times a second: compiled once for each dialect and handed to the driver as text.

Sound because our columns are integers, floats and text only, which every driver takes as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import CursorResult

_compiled: dict[tuple[str, int], tuple[Any, str, tuple[str, ...] | None]] = {}


def run(connection: Connection, statement: Any, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
    """Execute a statement once for every row of parameters. The statement must live as long as the program."""
    key = (connection.dialect.name, id(statement))
    found = _compiled.get(key)
    if found is None:
        found = _compiled[key] = (statement, *_compile(connection, statement, rows[0]))
    _, text, order = found
    values = list(rows) if order is None else [tuple([row[name] for name in order]) for row in rows]
    return connection.exec_driver_sql(text, values if len(values) > 1 else values[0])


def _compile(connection: Connection, statement: Any, row: Mapping[str, Any]) -> tuple[str, tuple[str, ...] | None]:
    """The text, and the order of its parameters where the driver takes them by position."""
    keys = list(row) if getattr(statement, "is_insert", False) else None
    compiled = statement.compile(dialect=connection.dialect, column_keys=keys)
    return str(compiled), tuple(compiled.positiontup) if compiled.positional else None
