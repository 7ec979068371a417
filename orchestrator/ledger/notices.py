"""Messages that jobs have ended, as changes: made from the ends that are in the events, tried, delivered, given up.

An end and its event are one transaction, and so are the messages that follow from an event and the mark that it was
read: whatever dies in between, none is lost and none is made twice. Who sends them is none of this room's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from orchestrator.ledger import forms, tables
from orchestrator.ledger.change import Change
from orchestrator.ledger.rows import JobRow, NoticeRow
from orchestrator.ledger.states import ENDED
from orchestrator.spec.notify import ENDINGS

MARK = "notices"
_MOST_EVENTS = 1000
_KINDS = tuple(state.value for state in ENDED)
_TRIED = update(tables.notices).where(tables.notices.c.id == bindparam("of_id"), tables.notices.c.next_ms.is_not(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of a try. `again_ms` None: it was delivered, or there is no further one."""

    notice: NoticeRow
    said: str
    delivered: bool
    again_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is found after the mark: messages to be made, and how far was read. `keep`: the mark must follow."""

    rows: tuple[NoticeRow, ...]
    upto: int
    keep: bool
    more: bool


def mark(connection: Connection) -> int:
    """The number of the last event that was looked at."""
    return int(connection.execute(select(tables.marks.c.seq).where(tables.marks.c.name == MARK)).scalar_one())


def gather(connection: Connection, after: int, hooks: Sequence[Mapping[str, Any]], now_ms: int) -> Reading:
    """Ends among the events after a number. `hooks` are told of everybody's end."""
    events = tables.events.c
    query = select(events.seq, events.kind, events.job).where(events.seq > after).order_by(events.seq)
    found = connection.execute(query.limit(_MOST_EVENTS)).all()
    ends = {row.job: row.kind for row in found if row.kind in _KINDS and row.job is not None}
    rows = tuple(_rows(connection, ends, hooks, now_ms)) if ends else ()
    more = len(found) == _MOST_EVENTS
    return Reading(rows=rows, upto=found[-1].seq if found else after, keep=bool(ends) or more, more=more)


def enter(change: Change, reading: Reading) -> None:
    """Keep the messages, and that so much was read."""
    change.others.append((update(tables.marks).where(tables.marks.c.name == MARK), [{"seq": reading.upto}]))
    if reading.rows:
        change.others.append((insert(tables.notices), [forms.NOTICES.values(row) for row in reading.rows]))


def tried(change: Change, outcomes: Iterable[Tried]) -> None:
    """Keep what became of tries; an end of them is an event, too."""
    for one in outcomes:
        row = one.notice
        values = {
            "tries": row.tries + 1,
            "next_ms": one.again_ms,
            "delivered_ms": change.now_ms if one.delivered else None,
            "said": one.said,
            "of_id": row.id,
        }
        change.others.append((_TRIED, [values]))
        if one.again_ms is None:
            kind = "notified" if one.delivered else "notify-failed"
            data = {"notice": row.id, "of": row.event, "tries": row.tries + 1, "said": one.said}
            change.event_of(kind, row.job, row.tenant, **data)


def _rows(
    connection: Connection, ends: Mapping[str, str], hooks: Sequence[Mapping[str, Any]], now_ms: int
) -> Iterator[NoticeRow]:
    own = _own_hooks(connection, list(ends))
    asked = list(ends) if hooks else list(own)
    jobs = {row.id: row for row in _jobs(connection, asked)}
    for job_id in asked:
        row, kind = jobs[job_id], ends[job_id]
        known = [("c", hook, "") for hook in hooks] + [("j", hook, f"{row.tenant}/") for hook in own.get(job_id, ())]
        for at, (whose, hook, folder) in enumerate(known):
            if kind in hook.get("events", ENDINGS):
                secret = hook.get("secret")
                yield NoticeRow(
                    id=f"{job_id}-{kind}-{whose}{at}",
                    job=job_id,
                    tenant=row.tenant,
                    event=kind,
                    url=hook["url"],
                    secret=None if secret is None else f"{folder}{secret}",
                    body=body_of(row, kind),
                    created_ms=now_ms,
                    next_ms=now_ms,
                )


def _own_hooks(connection: Connection, jobs: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What jobs say under `notify`; most say nothing, and their documents are not read."""
    table, found = tables.documents.c, {}
    for start in range(0, len(jobs), 500):
        query = select(table.job, table.document).where(table.job.in_(jobs[start : start + 500]))
        for row in connection.execute(query.where(table.document.like('%"notify"%'))):
            hooks = json.loads(row.document)["spec"].get("notify")
            if hooks:
                found[row.job] = hooks
    return found


def _jobs(connection: Connection, jobs: Sequence[str]) -> Iterator[JobRow]:
    columns = [tables.jobs.c[name] for name in forms.JOBS.names]
    for start in range(0, len(jobs), 500):
        query = select(*columns).where(tables.jobs.c.id.in_(jobs[start : start + 500]))
        yield from (forms.JOBS.of(dict(row)) for row in connection.execute(query).mappings())


def body_of(row: JobRow, kind: str) -> str:
    """What is sent: how a job ended, in the API's own words for it."""
    data = {
        "job": row.id,
        "name": row.name,
        "run": row.run,
        "kind": row.shape.kind,
        "tenant": row.tenant,
        "queue": row.queue,
        "state": kind,
        "detail": row.detail,
        "submitted_ms": row.submitted_ms,
        "ended_ms": row.ended_ms,
        "attempts": row.attempt,
        "steps_done": row.steps_done,
        "steps": row.shape.steps,
        "failures": row.failures,
        "preemptions": row.preemptions,
        "resizes": row.resizes,
        "spent_micro_usd": row.spent_micro_usd,
        "device_ms": row.spent_device_ms,
    }
    return json.dumps({"type": f"job.{kind}", "timestamp_ms": row.ended_ms, "data": data}, separators=(",", ":"))


def due(connection: Connection, now_ms: int, most_each: int) -> list[NoticeRow]:
    """Messages whose next try has come, so many of each address, oldest wish first: a server that is down for days
    must not stand before all others."""
    table = tables.notices.c
    columns = [table[name] for name in forms.NOTICES.names]
    rank = func.row_number().over(partition_by=table.url, order_by=(table.next_ms, table.id)).label("rank")
    ranked = select(*columns, rank).where(table.next_ms <= now_ms).subquery()
    query = select(*(ranked.c[name] for name in forms.NOTICES.names)).where(ranked.c.rank <= most_each)
    found = connection.execute(query.order_by(ranked.c.next_ms, ranked.c.id).limit(1000)).mappings()
    return [forms.NOTICES.of(dict(row)) for row in found]
