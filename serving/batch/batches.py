"""Batches of tenants: create with a promise, look up, cancel, and end what has run out of time."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from sqlalchemy import Connection, Row, func, insert, literal, select, update

from serving.batch.database import Database
from serving.batch.files import add_output_file, find_file, page_behind, page_order
from serving.batch.promise import Broken, OpenWork, promise
from serving.batch.records import (
    BatchError,
    BatchRecord,
    BatchStatus,
    ConflictError,
    FileKind,
    NewBatch,
    RowError,
    RowState,
    UnknownError,
    WindowError,
)
from serving.batch.tables import batches, lines, replicas, rows
from serving.batch.upload import is_storable

# A replica that has not said how fast it is for so long does not count any more.
REPLICA_SEEN_S = 20.0
_OPEN_STATES = (RowState.PENDING, RowState.LEASED)


class BatchBook:
    """Batches by id, each seen by its tenant alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewBatch, *, max_rows: int) -> BatchRecord:
        """Take a batch, rows and all, in one transaction; the same idempotency key returns the one that is there.

        Raises: UnknownError for its file, BatchError for lines of another endpoint, WindowError when measured slack
        cannot keep the window, ConflictError for a key that was used for another batch.
        """
        with self._database.write() as connection:
            if again := _repeated(connection, new):
                return again
            now_s = self._database.now_s(connection)
            total, tokens = _size_of_input(connection, new, max_rows)
            _check_window(connection, OpenWork(tokens=tokens, expires_s=now_s + new.window_s), new, now_s)
            batch_id = f"batch_{uuid.uuid4().hex}"
            values = {
                "id": batch_id, "tenant": new.tenant, "endpoint": new.endpoint, "input_file_id": new.input_file_id,
                "window": new.window, "status": BatchStatus.IN_PROGRESS, "created_s": now_s,
                "expires_s": now_s + new.window_s, "total": total, "tokens_left": tokens,
                "metadata": json.dumps(dict(new.metadata)), "idempotency_key": new.idempotency_key,
                "fingerprint": _fingerprint(new),
            }  # fmt: skip
            connection.execute(insert(batches).values(values))
            copied = select(
                literal(batch_id), lines.c.idx, lines.c.custom_id, lines.c.tokens, literal(RowState.PENDING.value),
                literal(0),
            ).where(lines.c.file_id == new.input_file_id)  # fmt: skip
            names = ["batch_id", "idx", "custom_id", "tokens", "state", "attempts"]
            connection.execute(insert(rows).from_select(names, copied))
            return find_batch(connection, new.tenant, batch_id)

    def get(self, tenant: str, batch_id: str) -> BatchRecord:
        """The batch as it stands now, ended if its window has. Raises: UnknownError."""
        with self._database.read() as connection:
            batch = find_batch(connection, tenant, batch_id)
            overdue = batch.status is BatchStatus.IN_PROGRESS and batch.expires_s <= self._database.now_s(connection)
        if not overdue:
            return batch
        self.end_overdue()
        with self._database.read() as connection:
            return find_batch(connection, tenant, batch_id)

    def page(self, tenant: str, *, limit: int, after: str | None) -> tuple[list[BatchRecord], bool]:
        """Up to `limit` batches, newest first, behind the one with id `after`; and whether there are more."""
        with self._database.read() as connection:
            query = select(batches).where(batches.c.tenant == tenant)
            if after is not None:
                query = query.where(page_behind(batches, find_batch(connection, tenant, after, param="after"), True))
            found = connection.execute(query.order_by(*page_order(batches, True)).limit(limit + 1)).all()
        return [_record(row) for row in found[:limit]], len(found) > limit

    def cancel(self, tenant: str, batch_id: str) -> BatchRecord:
        """End a batch now: what is done is kept, leases of the rest are void. A cancelled batch stays as it is.

        Raises: UnknownError; ConflictError for one that has ended otherwise.
        """
        with self._database.write() as connection:
            batch = find_batch(connection, tenant, batch_id, lock=True)
            if batch.status not in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLED):
                raise ConflictError("batch_has_ended", f"{batch_id} has ended already: {batch.status}")
            if batch.status is BatchStatus.IN_PROGRESS:
                _end_rest(connection, batch, BatchStatus.CANCELLED, RowError.CANCELLED, self._database)
            return find_batch(connection, tenant, batch_id)

    def end_overdue(self) -> int:
        """End every open batch whose window is over, with what it has; returns how many. Anybody may call it."""
        due = (batches.c.status == BatchStatus.IN_PROGRESS) & (batches.c.expires_s <= self._now_s())
        with self._database.read() as connection:
            found = connection.execute(select(batches.c.id, batches.c.tenant).where(due)).all()
        for batch_id, tenant in found:
            with self._database.write() as connection:
                batch = find_batch(connection, tenant, batch_id, lock=True)
                if batch.status is BatchStatus.IN_PROGRESS:
                    _end_rest(connection, batch, BatchStatus.EXPIRED, RowError.EXPIRED, self._database)
        return len(found)

    def _now_s(self) -> float:
        with self._database.read() as connection:
            return self._database.now_s(connection)


def find_batch(
    connection: Connection, tenant: str, batch_id: str, *, lock: bool = False, param: str = "batch_id"
) -> BatchRecord:
    """The tenant's batch; with `lock` nobody else changes it before the transaction ends.

    Raises: UnknownError, about the field `param`.
    """
    query = select(batches).where(batches.c.id == batch_id, batches.c.tenant == tenant)
    row = None
    if is_storable(batch_id):
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownError(
            "batch_not_found", f"there is no batch {batch_id!r}; GET /v1/batches lists yours", param=param
        )
    return _record(row)


def close_batch(connection: Connection, batch_id: str, tenant: str, status: BatchStatus, *, now_s: float) -> None:
    """Write the end of a batch whose rows are all final, and show its files. The batch must be locked."""
    row = connection.execute(select(batches.c.completed, batches.c.failed).where(batches.c.id == batch_id)).one()
    ended: dict[str, Any] = {"status": status, "ended_s": now_s, "tokens_left": 0}
    if row.completed:
        ended["output_file_id"] = add_output_file(connection, tenant, batch_id, FileKind.OUTPUT, now_s=now_s)
    if row.failed:
        ended["error_file_id"] = add_output_file(connection, tenant, batch_id, FileKind.ERRORS, now_s=now_s)
    connection.execute(update(batches).where(batches.c.id == batch_id).values(ended))


def _end_rest(
    connection: Connection, batch: BatchRecord, status: BatchStatus, error: RowError, database: Database
) -> None:
    unfinished = (rows.c.batch_id == batch.id) & rows.c.state.in_(_OPEN_STATES)
    ended = connection.execute(
        update(rows).where(unfinished).values(state=RowState.FAILED, error=error, lease_token=None, lease_until_s=None)
    )
    failed = batches.c.failed + ended.rowcount
    connection.execute(update(batches).where(batches.c.id == batch.id).values(failed=failed))
    close_batch(connection, batch.id, batch.tenant, status, now_s=database.now_s(connection))


def _size_of_input(connection: Connection, new: NewBatch, max_rows: int) -> tuple[int, int]:
    """(rows, tokens) of the input file. Raises: UnknownError, BatchError."""
    file = find_file(connection, new.tenant, new.input_file_id, param="input_file_id")
    if file.kind is not FileKind.INPUT:
        raise BatchError("invalid_file", f"{file.id} is the output of a batch; upload one with purpose 'batch'",
                         param="input_file_id")  # fmt: skip
    mine = lines.c.file_id == file.id
    other = connection.execute(
        select(lines.c.idx, lines.c.url).where(mine, lines.c.url != new.endpoint).order_by(lines.c.idx).limit(1)
    ).one_or_none()
    if other is not None:
        message = (
            f"request {other.idx + 1} of the file is for {other.url}, the batch for {new.endpoint}; "
            "all requests of a batch go to one endpoint"
        )
        raise BatchError("endpoint_mismatch", message, param="endpoint")
    total, tokens = connection.execute(select(func.count(), func.sum(lines.c.tokens)).where(mine)).one()
    if total > max_rows:
        raise BatchError("too_many_rows", f"the file holds {total:,} requests; a batch may hold {max_rows:,}",
                         param="input_file_id")  # fmt: skip
    return total, int(tokens)


def _check_window(connection: Connection, work: OpenWork, new: NewBatch, now_s: float) -> None:
    alive = replicas.c.seen_s > now_s - REPLICA_SEEN_S
    tokens_per_s = connection.scalar(select(func.sum(replicas.c.tokens_per_s)).where(alive))
    if not tokens_per_s:
        return  # nothing has been measured yet: there is no slack to refuse by
    opened = connection.execute(
        select(batches.c.tokens_left, batches.c.expires_s).where(batches.c.status == BatchStatus.IN_PROGRESS)
    )
    open_work = [OpenWork(tokens=row.tokens_left, expires_s=row.expires_s) for row in opened]
    verdict = promise(work, open_work, tokens_per_s=tokens_per_s, now_s=now_s)
    if isinstance(verdict, Broken):
        again = "it is more than fits into this window: allow a longer one, or send fewer requests"
        if verdict.retry_after_s is not None:
            again = f"submit it in {verdict.retry_after_s:.0f} s, when this window can be kept, or allow a longer one"
        message = f"completion_window: {new.window} cannot be kept; done in {verdict.eta_s:.0f} s at best; {again}"
        raise WindowError(message, eta_s=verdict.eta_s, retry_after_s=verdict.retry_after_s)


def _repeated(connection: Connection, new: NewBatch) -> BatchRecord | None:
    if new.idempotency_key is None:
        return None
    same_key = (batches.c.tenant == new.tenant) & (batches.c.idempotency_key == new.idempotency_key)
    row = connection.execute(select(batches).where(same_key)).one_or_none()
    if row is not None and row.fingerprint != _fingerprint(new):
        raise ConflictError("idempotency_key_reused", "the Idempotency-Key was used for another batch; use a new one",
                            param="Idempotency-Key")  # fmt: skip
    return None if row is None else _record(row)


def _fingerprint(new: NewBatch) -> str:
    said = [new.endpoint, new.input_file_id, new.window, sorted(new.metadata.items())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _record(row: Row[Any]) -> BatchRecord:
    values = row._asdict()
    for internal in ("idempotency_key", "fingerprint"):
        del values[internal]
    values |= {"status": BatchStatus(row.status), "metadata": json.loads(row.metadata)}
    return BatchRecord(**values)
