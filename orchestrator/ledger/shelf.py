"""Rows in memory, as committed, and drafts of them that become true when their transaction does.

One process writes (the leader), so what it has in memory is what the database holds: reading costs nothing, and a
draft that is thrown away has changed nothing.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update

from orchestrator.ledger.errors import FencedError
from orchestrator.ledger.fast import run

R = TypeVar("R")
Key = str | int | tuple[str | int, ...]
Values = dict[str, Any]


@dataclass(frozen=True)
class Form(Generic[R]):
    """How a class of rows is stored: table, key columns, and how single columns are written and read.

    `counted`: rows carry a version, and an update must find the one before. `group`: a column that never changes, by
    which rows are found together.
    """

    table: Table
    row: type[R]
    key: tuple[str, ...]
    write: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    read: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    counted: bool = False
    group: str = ""

    def key_of(self, row: R) -> Key:
        """Under what a row is found."""
        if len(self.key) == 1:
            found: Key = getattr(row, self.key[0])
            return found
        return tuple(getattr(row, name) for name in self.key)

    def values(self, row: R) -> Values:
        """A row as the database takes it."""
        found = dict(zip(self.names, self._fields(row), strict=True))
        for name, write in self.write.items():
            if found[name] is not None:
                found[name] = write(found[name])
        return found

    def of(self, values: Values) -> R:
        """The row that the database holds."""
        for name, read in self.read.items():
            if values[name] is not None:
                values[name] = read(values[name])
        return self.row(**values)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its columns."""
        return tuple(one.name for one in fields(self.row))  # type: ignore[arg-type]

    @cached_property
    def _fields(self) -> Callable[[R], tuple[Any, ...]]:
        return attrgetter(*self.names)

    @cached_property
    def insert(self) -> Any:
        """Adds a row."""
        return insert(self.table)

    @cached_property
    def update(self) -> Any:
        """Changes the row that `where` names."""
        names = [name for name in self.names if name not in self.key]
        statement = update(self.table).values({name: bindparam(name) for name in names})
        return statement.where(*self._conditions((*self.key, "version") if self.counted else self.key))

    @cached_property
    def delete(self) -> Any:
        """Takes the row away that `where` names."""
        return delete(self.table).where(*self._conditions(self.key))

    def _conditions(self, names: tuple[str, ...]) -> list[Any]:
        return [self.table.c[name] == bindparam(f"was_{name}") for name in names]

    def where(self, row: R) -> Values:
        """What names a row in `update` and `delete`."""
        names = (*self.key, "version") if self.counted else self.key
        return {f"was_{name}": getattr(row, name) for name in names}

    def load(self, connection: Connection, *where: Any, order: Any = None) -> list[R]:
        """All rows, or those that meet every condition."""
        columns = [self.table.c[name] for name in self.names]
        query = select(*columns).where(*where)
        found = connection.execute(query if order is None else query.order_by(order)).mappings()
        return [self.of(dict(one)) for one in found]


@dataclass(slots=True)
class Shelf(Generic[R]):
    """Committed rows by key; `groups`: keys by the column that groups them, where there is one."""

    form: Form[R]
    rows: dict[Key, R] = field(default_factory=dict)
    groups: dict[Key, set[Key]] = field(default_factory=dict)

    def draft(self) -> Draft[R]:
        """A draft without changes."""
        return Draft(self)

    def fill(self, rows: list[R]) -> None:
        """Forget everything and hold these."""
        self.rows, self.groups = {}, {}
        for row in rows:
            self.hold(self.form.key_of(row), row)

    def hold(self, key: Key, row: R) -> None:
        """Have a row under its key."""
        self.rows[key] = row
        if self.form.group:
            self.groups.setdefault(getattr(row, self.form.group), set()).add(key)

    def lose(self, key: Key) -> None:
        """Have no row under a key."""
        row = self.rows.pop(key, None)
        if row is None or not self.form.group:
            return
        name = getattr(row, self.form.group)
        self.groups[name].discard(key)
        if not self.groups[name]:
            del self.groups[name]

    def of(self, group: Key) -> list[R]:
        """The rows of a group, in order of key."""
        return [self.rows[key] for key in sorted(self.groups.get(group, ()))]


@dataclass(slots=True)
class Draft(Generic[R]):
    """A shelf with changes on top; None stands for a row that is taken away."""

    shelf: Shelf[R]
    changes: dict[Key, R | None] = field(default_factory=dict)
    _groups: dict[Key, set[Key]] = field(default_factory=dict)

    def get(self, key: Key) -> R | None:
        """A row as it would be after the change."""
        return self.changes[key] if key in self.changes else self.shelf.rows.get(key)

    def put(self, row: R) -> None:
        """Add a row or change it."""
        form = self.shelf.form
        key = form.key_of(row)
        self.changes[key] = row
        if form.group:
            self._groups.setdefault(getattr(row, form.group), set()).add(key)

    def drop(self, key: Key) -> None:
        """Take a row away; one that is not there is none to take."""
        if key in self.shelf.rows:
            self.changes[key] = None
        else:
            self.changes.pop(key, None)

    def values(self) -> Iterator[R]:
        """All rows as they would be after the change."""
        for key, row in self.shelf.rows.items():
            if key not in self.changes:
                yield row
        yield from (row for row in self.changes.values() if row is not None)

    def of(self, group: Key) -> list[R]:
        """The rows of a group as they would be after the change, in order of key."""
        keys = {*self.shelf.groups.get(group, ()), *self._groups.get(group, ())}
        found = [self.get(key) for key in sorted(keys)]
        return [row for row in found if row is not None]

    def write(self, connection: Connection) -> None:
        """Send the changes. Raises: FencedError if somebody else changed a row meanwhile."""
        if not self.changes:
            return
        form, before = self.shelf.form, self.shelf.rows
        added = [form.values(row) for key, row in self.changes.items() if row is not None and key not in before]
        changed = [(before[key], row) for key, row in self.changes.items() if row is not None and key in before]
        gone = [before[key] for key, row in self.changes.items() if row is None]
        if added:
            run(connection, form.insert, added)
        if changed:
            self._update(connection, [{**form.values(new), **form.where(old)} for old, new in changed])
        if gone:
            run(connection, form.delete, [form.where(row) for row in gone])

    def _update(self, connection: Connection, values: list[Values]) -> None:
        found = run(connection, self.shelf.form.update, values).rowcount
        if found != len(values):
            raise FencedError(f"{len(values) - found} rows of {self.shelf.form.table.name} were changed by another")

    def settle(self) -> None:
        """The transaction is committed: the changes are what is."""
        for key, row in self.changes.items():
            if row is None:
                self.shelf.lose(key)
            else:
                self.shelf.hold(key, row)


def dumps(value: object) -> str:
    """Compact JSON; enumerations as their values."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is no JSON value")
