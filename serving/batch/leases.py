"""Rows on their way through a replica: leased by pull, renewed while they run, committed exactly once.

A lease is a random token on the row. Commit, renewal and return are compare-and-swaps on it, so a row whose lease ran
out and was taken by another replica cannot be committed twice, however late the first one comes.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from serving.batch.batches import REPLICA_SEEN_S, close_batch
from serving.batch.database import Database
from serving.batch.outcome import result_line
from serving.batch.records import BatchStatus, LeasedRow, RowError, RowResult, RowState
from serving.batch.tables import batches, lines, replicas, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRules:
    """`lease_s` after its last renewal a row is taken back; a row is started at most `retries` + 1 times."""

    lease_s: float = 30.0
    retries: int = 3


class LeaseDesk:
    """Gives rows out and takes them back."""

    def __init__(self, database: Database, rules: LeaseRules) -> None:
        self._database = database
        self.rules = rules

    def lease(self, num_rows: int) -> list[LeasedRow]:
        """Up to `num_rows` rows, of the batch that expires first and in its order; takes expired leases back first."""
        self._take_back_expired()
        if not self._is_work_open():
            return []
        token = secrets.token_hex(16)
        with self._database.write() as connection:
            now_s, leased = self._database.now_s(connection), list[LeasedRow]()
            for batch in self._open_batches(connection, now_s):
                leased += self._lease_from(connection, batch, num_rows - len(leased), token, now_s)
                if len(leased) == num_rows:
                    break
            return leased

    def renew(self, leased: Sequence[LeasedRow]) -> list[LeasedRow]:
        """Hold these rows for another `lease_s`; returns those that are lost (cancelled, expired, taken back)."""
        if not leased:
            return []
        with self._database.write() as connection:
            _lock_batches(connection, leased)
            until_s = self._database.now_s(connection) + self.rules.lease_s
            return [row for row in leased if not _swap(connection, row, lease_until_s=until_s)]

    def give_back(self, leased: Sequence[LeasedRow]) -> None:
        """Return rows that were not finished, as if they had never been taken."""
        if leased:
            with self._database.write() as connection:
                _lock_batches(connection, leased)
                for row in leased:
                    _swap(connection, row, state=RowState.PENDING, lease_token=None, lease_until_s=None,
                          attempts=rows.c.attempts - 1)  # fmt: skip

    def commit(self, done: Sequence[tuple[LeasedRow, RowResult]]) -> set[tuple[str, int]]:
        """Make results durable, all of them in one transaction; returns (batch, index) of those that counted.

        A result does not count when its lease is lost. The last row of a batch ends it.
        """
        per_batch: defaultdict[str, list[tuple[LeasedRow, RowResult]]] = defaultdict(list)
        for row, result in done:
            per_batch[row.batch_id].append((row, result))
        if not per_batch:
            return set()
        with self._database.write() as connection:
            # In one order everywhere, and batch before rows: two writers never wait for each other.
            counted = [self._commit_batch(connection, each, per_batch[each]) for each in sorted(per_batch)]
            return {(row.batch_id, row.index) for part in counted for row in part}

    def report_rate(self, replica_id: str, tokens_per_s: float) -> None:
        """Say how fast this replica does batch work; promises count it for a while. 0 = it stops."""
        with self._database.write() as connection:
            now_s = self._database.now_s(connection)
            gone = (replicas.c.id == replica_id) | (replicas.c.seen_s < now_s - REPLICA_SEEN_S)
            connection.execute(delete(replicas).where(gone))
            if tokens_per_s > 0:
                values = {"id": replica_id, "tokens_per_s": tokens_per_s, "seen_s": now_s}
                connection.execute(insert(replicas).values(values))

    def _commit_batch(
        self, connection: Connection, batch_id: str, done: Sequence[tuple[LeasedRow, RowResult]]
    ) -> list[LeasedRow]:
        locked = select(batches).where(batches.c.id == batch_id).with_for_update()
        batch = connection.execute(locked).one_or_none()
        if batch is None or batch.status != BatchStatus.IN_PROGRESS:
            return []
        counted = [
            (row, result)
            for row, result in done
            if _swap(
                connection, row, state=RowState.SUCCEEDED if result.succeeded else RowState.FAILED,
                lease_token=None, lease_until_s=None, result=result_line(row, result),
            )
        ]  # fmt: skip
        completed = sum(result.succeeded for _, result in counted)
        _count(
            connection, batch_id, completed=completed, failed=len(counted) - completed,
            tokens_left=-sum(row.tokens for row, _ in counted),
            prompt_tokens=sum(result.prompt_tokens for _, result in counted),
            completion_tokens=sum(result.completion_tokens for _, result in counted),
        )  # fmt: skip
        self._close_if_done(connection, batch_id, batch.tenant)
        return [row for row, _ in counted]

    def _take_back_expired(self) -> None:
        """Rows whose holder died go back in line; one that outlived its retries fails."""
        with self._database.read() as connection:
            now_s = self._database.now_s(connection)
            over = (rows.c.state == RowState.LEASED) & (rows.c.lease_until_s < now_s)
            affected = sorted(set(connection.scalars(select(rows.c.batch_id).where(over))))
        for batch_id in affected:
            with self._database.write() as connection:
                self._take_back(connection, batch_id, now_s)

    def _take_back(self, connection: Connection, batch_id: str, now_s: float) -> None:
        batch = connection.execute(select(batches).where(batches.c.id == batch_id).with_for_update()).one()
        over = (rows.c.batch_id == batch_id) & (rows.c.state == RowState.LEASED) & (rows.c.lease_until_s < now_s)
        free = {"lease_token": None, "lease_until_s": None}
        worn_out = over & (rows.c.attempts > self.rules.retries)
        failed = connection.execute(select(rows.c.idx, rows.c.tokens).where(worn_out)).all()
        ends = {**free, "state": RowState.FAILED, "error": RowError.RETRIES_EXHAUSTED}
        connection.execute(update(rows).where(worn_out).values(ends))
        connection.execute(update(rows).where(over).values({**free, "state": RowState.PENDING}))
        if failed:
            _count(connection, batch_id, failed=len(failed), tokens_left=-sum(row.tokens for row in failed))
            self._close_if_done(connection, batch_id, batch.tenant)

    def _close_if_done(self, connection: Connection, batch_id: str, tenant: str) -> None:
        counts = select(batches.c.total, batches.c.completed, batches.c.failed).where(batches.c.id == batch_id)
        total, completed, failed = connection.execute(counts).one()
        if completed + failed == total:
            now_s = self._database.now_s(connection)
            close_batch(connection, batch_id, tenant, BatchStatus.COMPLETED, now_s=now_s)

    def _is_work_open(self) -> bool:
        """A look without the writers' lock: idle replicas must not keep busy ones waiting."""
        with self._database.read() as connection:
            found = self._open_batches(connection, self._database.now_s(connection))
            return any(_pending(connection, batch.id, 1) for batch in found)

    def _open_batches(self, connection: Connection, now_s: float) -> list[_OpenBatch]:
        is_open = (batches.c.status == BatchStatus.IN_PROGRESS) & (batches.c.expires_s > now_s)
        query = select(batches.c.id, batches.c.tenant, batches.c.input_file_id, batches.c.expires_s).where(is_open)
        found = connection.execute(query.order_by(batches.c.expires_s, batches.c.id))
        return [_OpenBatch(*row) for row in found]

    def _lease_from(
        self, connection: Connection, batch: _OpenBatch, num_rows: int, token: str, now_s: float
    ) -> list[LeasedRow]:
        chosen = _pending(connection, batch.id, num_rows, lock=True)
        if not chosen:
            return []
        mine = (rows.c.batch_id == batch.id) & rows.c.idx.in_(chosen)
        taken = {"state": RowState.LEASED, "lease_token": token, "lease_until_s": now_s + self.rules.lease_s}
        connection.execute(update(rows).where(mine).values({**taken, "attempts": rows.c.attempts + 1}))
        read = select(lines).where(lines.c.file_id == batch.input_file_id, lines.c.idx.in_(chosen))
        return [
            LeasedRow(
                batch_id=batch.id, index=line.idx, token=token, custom_id=line.custom_id, tenant=batch.tenant,
                url=line.url, line=line.raw, tokens=line.tokens, expires_s=batch.expires_s,
            )
            for line in connection.execute(read.order_by(lines.c.idx))
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _OpenBatch:
    id: str
    tenant: str
    input_file_id: str
    expires_s: float


def _pending(connection: Connection, batch_id: str, num_rows: int, *, lock: bool = False) -> list[int]:
    query = select(rows.c.idx).where(rows.c.batch_id == batch_id, rows.c.state == RowState.PENDING)
    query = query.order_by(rows.c.idx).limit(num_rows)
    # On SQLite the transaction has the writers' lock already, and the clause is not written.
    return list(connection.scalars(query.with_for_update(skip_locked=True) if lock else query))


def _lock_batches(connection: Connection, leased: Sequence[LeasedRow]) -> None:
    """Batch before rows, and batches in one order: two writers never wait for each other."""
    ids = {row.batch_id for row in leased}
    connection.execute(select(batches.c.id).where(batches.c.id.in_(ids)).order_by(batches.c.id).with_for_update()).all()


def _swap(connection: Connection, row: LeasedRow, **values: object) -> bool:
    """Change a row if this lease still holds it."""
    held = (
        (rows.c.batch_id == row.batch_id)
        & (rows.c.idx == row.index)
        & (rows.c.state == RowState.LEASED)
        & (rows.c.lease_token == row.token)
    )
    return connection.execute(update(rows).where(held).values(values)).rowcount == 1


def _count(connection: Connection, batch_id: str, **changes: int) -> None:
    counted = {name: batches.c[name] + bindparam(f"by_{name}") for name in changes}
    query = update(batches).where(batches.c.id == batch_id).values(counted)
    connection.execute(query, {f"by_{name}": change for name, change in changes.items()})
