"""What runs thousands of times a second: statements compiled once for each dialect and handed to the driver as text,
and copies of rows.

Sound because our columns are integers, floats and text only, which every driver takes as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import CursorResult

R = TypeVar("R")
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


def changed(row: R, **fields: Any) -> R:
    """`dataclasses.replace` for rows with slots and no `__post_init__`, in a third of its time."""
    of: Any = type(row)
    copied: R = object.__new__(of)
    values, puts = _slots(of)
    for put, value in zip(puts.values(), values(row), strict=True):
        put(copied, value)
    for name, value in fields.items():
        puts[name](copied, value)
    return copied


@cache
def _slots(of: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, Callable[[Any, Any], None]]]:
    names = [one.name for one in dataclasses.fields(of)]
    return attrgetter(*names), {name: vars(of)[name].__set__ for name in names}
