"""The way every read goes: a connection of its own, so that it waits for no writer; also where nobody leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select

from orchestrator.ledger.database import Database
from orchestrator.ledger.shelf import Form


class Queries:
    """What is committed. Raises everywhere: UnreachableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _rows(self, form: Form[Any], query: Select[Any]) -> list[Any]:
        with self._database.reading() as connection:
            return [form.of(dict(row)) for row in connection.execute(query).mappings()]

    def _scalar(self, query: Select[Any]) -> Any:
        with self._database.reading() as connection:
            return connection.execute(query).scalar()


def page_of(form: Form[Any], where: Sequence[Any], order: Any, limit: int) -> Select[Any]:
    """So many rows that meet every condition, in order."""
    columns = [form.table.c[name] for name in form.names]
    return select(*columns).where(*where).order_by(order).limit(limit)
