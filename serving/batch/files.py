"""Files of tenants: uploaded lines, and the output of batches, which is read from their rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from serving.batch.database import Database
from serving.batch.outcome import error_line
from serving.batch.records import (
    BatchStatus,
    CheckedInput,
    ConflictError,
    FileKind,
    FileRecord,
    RowState,
    UnknownError,
)
from serving.batch.tables import batches, files, lines, rows
from serving.batch.upload import is_storable

_CHUNK = 500


class FileStore:
    """Files by id, each seen by its tenant alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str, filename: str, content: BinaryIO, checked: CheckedInput) -> FileRecord:
        """Store a checked upload in one transaction.

        The same idempotency key with the same content returns the file that is there. Raises: ConflictError.
        """
        with self._database.write() as connection:
            if again := _repeated(connection, tenant, checked):
                return again
            file_id = f"file-{uuid.uuid4().hex}"
            created_s = self._database.now_s(connection)
            values = {
                "id": file_id, "tenant": tenant, "kind": FileKind.INPUT, "filename": filename,
                "num_bytes": checked.num_bytes, "created_s": created_s,
                "idempotency_key": checked.idempotency_key, "fingerprint": checked.fingerprint,
            }  # fmt: skip
            connection.execute(insert(files).values(values))
            for chunk in _chunks(_line_values(file_id, content, checked)):
                connection.execute(insert(lines), chunk)
            return _record(connection.execute(select(files).where(files.c.id == file_id)).one())

    def get(self, tenant: str, file_id: str) -> FileRecord:
        """Raises: UnknownError."""
        with self._database.read() as connection:
            return find_file(connection, tenant, file_id)

    def page(
        self, tenant: str, *, limit: int, after: str | None, kinds: Sequence[FileKind], newest_first: bool
    ) -> tuple[list[FileRecord], bool]:
        """Up to `limit` files behind the one with id `after`, and whether there are more. Raises: UnknownError."""
        with self._database.read() as connection:
            query = select(files).where(files.c.tenant == tenant, files.c.kind.in_(kinds))
            if after is not None:
                query = query.where(
                    page_behind(files, find_file(connection, tenant, after, param="after"), newest_first)
                )
            found = connection.execute(query.order_by(*page_order(files, newest_first)).limit(limit + 1)).all()
        return [_record(row) for row in found[:limit]], len(found) > limit

    def content(self, file: FileRecord) -> Iterator[bytes]:
        """The bytes, piece by piece; each piece is a read of its own, so that a slow reader holds nothing open."""
        pieces = self._input_pieces if file.kind is FileKind.INPUT else self._row_pieces
        start = 0
        while found := pieces(file, start):
            yield b"".join(piece for _, piece in found)
            start = found[-1][0] + 1

    def delete(self, tenant: str, file_id: str) -> None:
        """Raises: UnknownError; ConflictError while an open batch reads it."""
        with self._database.write() as connection:
            file = find_file(connection, tenant, file_id)
            user = connection.scalar(
                select(batches.c.id).where(
                    batches.c.input_file_id == file_id, batches.c.status == BatchStatus.IN_PROGRESS
                )
            )
            if user is not None:
                raise ConflictError("file_in_use", f"{file_id} is read by {user}; cancel it or wait for its end")
            connection.execute(delete(files).where(files.c.id == file_id))
            connection.execute(delete(lines).where(lines.c.file_id == file_id))
            if file.kind is FileKind.OUTPUT:
                done = (rows.c.batch_id == file.batch_id) & (rows.c.state == RowState.SUCCEEDED)
                connection.execute(update(rows).where(done).values(result=None))

    def _input_pieces(self, file: FileRecord, start: int) -> list[tuple[int, bytes]]:
        query = select(lines.c.idx, lines.c.raw).where(lines.c.file_id == file.id, lines.c.idx >= start)
        with self._database.read() as connection:
            return [(row.idx, row.raw) for row in connection.execute(query.order_by(lines.c.idx).limit(_CHUNK))]

    def _row_pieces(self, file: FileRecord, start: int) -> list[tuple[int, bytes]]:
        state = RowState.SUCCEEDED if file.kind is FileKind.OUTPUT else RowState.FAILED
        query = select(rows).where(rows.c.batch_id == file.batch_id, rows.c.state == state, rows.c.idx >= start)
        with self._database.read() as connection:
            return [
                (row.idx, row.result or error_line(row))
                for row in connection.execute(query.order_by(rows.c.idx).limit(_CHUNK))
            ]


def find_file(connection: Connection, tenant: str, file_id: str, *, param: str = "file_id") -> FileRecord:
    """The tenant's file. Raises: UnknownError, about the field `param`."""
    unknown = UnknownError("file_not_found", f"there is no file {file_id!r}; GET /v1/files lists yours", param=param)
    if not is_storable(file_id):
        raise unknown
    row = connection.execute(select(files).where(files.c.id == file_id, files.c.tenant == tenant)).one_or_none()
    if row is None:
        raise unknown
    return _record(row)


def add_output_file(connection: Connection, tenant: str, batch_id: str, kind: FileKind, *, now_s: float) -> str:
    """A file that shows the finished rows of a batch; its id follows from the batch's. Called as the batch ends."""
    file_id = f"file-{kind}-{batch_id.removeprefix('batch_')}"
    state = RowState.SUCCEEDED if kind is FileKind.OUTPUT else RowState.FAILED
    mine = (rows.c.batch_id == batch_id) & (rows.c.state == state)
    num_bytes = connection.scalar(select(func.coalesce(func.sum(func.length(rows.c.result)), 0)).where(mine)) or 0
    without = connection.execute(
        select(rows.c.batch_id, rows.c.idx, rows.c.custom_id, rows.c.error).where(mine, rows.c.result.is_(None))
    )
    num_bytes += sum(len(error_line(row)) for row in without)
    values = {
        "id": file_id, "tenant": tenant, "kind": kind, "filename": f"{batch_id}_{kind}.jsonl",
        "num_bytes": int(num_bytes), "created_s": now_s, "batch_id": batch_id,
    }  # fmt: skip
    connection.execute(insert(files).values(values))
    return file_id


def page_order(table: Any, newest_first: bool) -> list[Any]:
    """Creation order with ties ended on the id."""
    columns = [table.c.created_s, table.c.id]
    return [column.desc() for column in columns] if newest_first else columns


def page_behind(table: Any, last: Any, newest_first: bool) -> Any:
    """Everything behind `last` in `page_order`."""
    created, number = table.c.created_s, table.c.id
    if newest_first:
        return (created < last.created_s) | ((created == last.created_s) & (number < last.id))
    return (created > last.created_s) | ((created == last.created_s) & (number > last.id))


def _repeated(connection: Connection, tenant: str, checked: CheckedInput) -> FileRecord | None:
    if checked.idempotency_key is None:
        return None
    same_key = (files.c.tenant == tenant) & (files.c.idempotency_key == checked.idempotency_key)
    row = connection.execute(select(files).where(same_key)).one_or_none()
    if row is not None and row.fingerprint != checked.fingerprint:
        raise ConflictError("idempotency_key_reused", "the Idempotency-Key was used for another upload",
                            param="Idempotency-Key")  # fmt: skip
    return None if row is None else _record(row)


def _line_values(file_id: str, content: BinaryIO, checked: CheckedInput) -> Iterator[dict[str, Any]]:
    for index, line in enumerate(checked.lines):
        content.seek(line.start)
        raw = content.read(line.stop - line.start)
        yield {
            "file_id": file_id, "idx": index, "raw": raw, "custom_id": line.custom_id,
            "url": line.url, "tokens": line.tokens,
        }  # fmt: skip


def _chunks(values: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(values, _CHUNK)):
        yield chunk


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(
        id=row.id, tenant=row.tenant, kind=FileKind(row.kind), filename=row.filename, num_bytes=row.num_bytes,
        created_s=row.created_s, batch_id=row.batch_id,
    )  # fmt: skip
