"""Rows of the ledger as the API answers them; decisions: `render_decisions`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, assert_never
from urllib.parse import urlsplit

from orchestrator.api.progress import Progress, progress_of
from orchestrator.ledger.event_reads import Event
from orchestrator.ledger.keys import KeyRow
from orchestrator.ledger.life import placement_of
from orchestrator.ledger.rows import AttemptRow, JobRow, LeaseRow, NoticeRow
from orchestrator.ledger.states import Unit
from orchestrator.policy.queueing.decisions import Placement
from orchestrator.policy.queueing.orders import NoteKind, Report
from orchestrator.service.footprint import Footprint

_MS_PER_HOUR = 3_600_000
_BOOKED_TIMES = ("held", "useful", "stalled", "lost", "draining")
OF_STRAGGLERS = frozenset({NoteKind.STRAGGLER.value, NoteKind.STRAGGLER_OVER.value})


def instant(at_s: float) -> str:
    """UTC seconds as ISO 8601 with milliseconds."""
    try:
        moment = dt.datetime.fromtimestamp(at_s, dt.UTC)
    except (OverflowError, ValueError, OSError):
        moment = dt.datetime.max.replace(tzinfo=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant_ms(at_ms: int | None) -> str | None:
    """UTC milliseconds as ISO 8601; None stays None."""
    return None if at_ms is None else instant(at_ms / 1000)


def usd(micro_usd: int) -> str:
    """Micro-dollars as a decimal string of dollars."""
    return f"{Decimal(micro_usd) / 1_000_000:f}"


def stragglers(told: Iterable[Event]) -> list[dict[str, Any]]:
    """The ranks that are slower than the others now, by what a job told of them, oldest first."""
    slow: dict[int, dict[str, Any]] = {}
    for event in told:
        rank = event.data["rank"]
        slow.pop(rank, None)
        if event.kind == NoteKind.STRAGGLER:
            facts = {key: event.data[key] for key in ("node", "ratio", "steps")}
            slow[rank] = {"rank": rank, **facts, "since": instant_ms(event.data["happened_ms"])}
    return [slow[rank] for rank in sorted(slow)]


def job(
    row: JobRow, workers_now: int, heard: tuple[Report, int] | None = None, reason_at_s: float | None = None
) -> dict[str, Any]:
    """A job; `heard` is what its attempt said last, and when; `reason_at_s`, when its reason to wait was decided."""
    shape, known = row.shape, progress_of(row, heard, workers_now)
    return {
        "id": row.id,
        "name": row.name,
        "kind": shape.kind,
        "run": row.run,
        "tenant": row.tenant,
        "queue": row.queue,
        "priority": row.priority,
        "state": row.state,
        "reason": row.reason,
        "detail": row.detail,
        "reason_at": None if reason_at_s is None else instant(reason_at_s),
        "eta": instant_ms(row.eta_ms),
        "workers": {
            "min": shape.sizes[0],
            "max": shape.sizes[-1],
            "now": workers_now,
            "pinned": row.pinned_workers,
        },
        "submitted_at": instant_ms(row.submitted_ms),
        "submitted_by": row.submitted_by,
        "changed_at": instant_ms(row.changed_ms),
        "started_at": instant_ms(row.started_ms),
        "ended_at": instant_ms(row.ended_ms),
        "deadline": None if shape.deadline_s is None else instant(shape.deadline_s),
        "attempt": row.attempt,
        "steps_done": row.steps_done if known is None else known.steps_done,
        "steps": shape.steps,
        "progress": None if known is None else _progress(known),
        "failures": row.failures,
        "preemptions": row.preemptions,
        "resizes": row.resizes,
        "spent_usd": usd(row.spent_micro_usd),
        "device_hours": row.spent_device_ms / _MS_PER_HOUR,
    }


def _progress(known: Progress) -> dict[str, Any]:
    return {
        "heard_at": instant_ms(known.heard_ms),
        "steps_per_s": known.steps_per_s,
        "finish_at": instant_ms(known.finish_ms),
    }


def set_aside(row: JobRow) -> dict[str, Any] | None:
    """What is set aside for a job in its tenant's grants."""
    match row.paid_in:
        case Unit.ITERATIONS:
            worth = usd(row.reserved_micro_usd) if row.reserved_micro_usd else None
            return {"unit": row.paid_in, "amount": row.reserved_iterations, "worth_usd": worth}
        case Unit.MICRO_USD:
            return {"unit": row.paid_in, "amount": row.reserved_micro_usd, "worth_usd": None}
        case Unit.DEVICE_MS:
            return {"unit": row.paid_in, "amount": row.reserved_device_ms, "worth_usd": None}
        case None:
            return None
        case _:
            assert_never(row.paid_in)


def booked(entries: Mapping[Unit, Mapping[str, int]]) -> dict[str, Any]:
    """What a job was booked for."""
    times, money = entries[Unit.DEVICE_MS], entries[Unit.MICRO_USD]
    spent = {unit.value: of["spent"] for unit, of in entries.items() if "spent" in of}
    return {
        **{f"{kind}_device_s": times.get(kind, 0) / 1000 for kind in _BOOKED_TIMES},
        "cost_usd": usd(money.get("cost", 0)),
        "granted_spent": spent,
        "granted_steps_usd": usd(money["steps"]) if "steps" in money else None,
    }


def usage(entries: Mapping[Unit, Mapping[str, int]]) -> dict[str, int]:
    """The same by kind of account whatever the unit, as it was told before there was `booked`."""
    found: dict[str, int] = {}
    for of in entries.values():
        for kind, amount in of.items():
            found[kind] = found.get(kind, 0) + amount
    return found


def footprint(found: Footprint | None) -> dict[str, float | None] | None:
    """What a job has used."""
    return None if found is None else {"kwh": found.kwh, "g_co2": found.g_co2, "usd": found.usd}


def attempt(row: AttemptRow) -> dict[str, Any]:
    """An attempt."""
    return {
        "attempt": row.attempt,
        "cause": row.cause,
        "world_size": row.world_size,
        "ordered_at": instant_ms(row.ordered_ms),
        "running_at": instant_ms(row.running_ms),
        "ended_at": instant_ms(row.ended_ms),
        "outcome": row.outcome,
        "detail": row.detail,
        "start_step": row.start_step,
        "useful_s": row.useful_ms / 1000,
        "stalled_s": row.stalled_ms / 1000,
        "lost_s": row.lost_ms / 1000,
        "draining_s": row.draining_ms / 1000,
        "stall_parts": json.loads(row.stall_parts),
        "placement": seats(placement_of(row)),
    }


def seats(placement: Placement) -> list[dict[str, Any]]:
    """Where workers sit."""
    return [{"pool": one.pool, "node": one.node, "workers": one.workers} for one in placement]


def lease(row: LeaseRow) -> dict[str, Any]:
    """A lease."""
    return {
        "id": row.id,
        "holder": row.holder,
        "attempt": row.attempt,
        "pool": row.pool,
        "devices": row.devices,
        "nodes": dict(row.nodes),
        "since": instant_ms(row.since_ms),
        "until": instant_ms(row.until_ms),
        "state": row.state,
        "queue": row.queue,
        "tenant": row.tenant,
    }


def event(row: Event) -> dict[str, Any]:
    """An event."""
    return {
        "seq": row.seq,
        "at": instant_ms(row.at_ms),
        "kind": row.kind,
        "job": row.job,
        "attempt": row.attempt,
        "tenant": row.tenant,
        "actor": row.actor,
        "data": row.data,
    }


def notice(row: NoticeRow) -> dict[str, Any]:
    """A message to an address, of which only the host is shown."""
    waits = row.next_ms is not None
    return {
        "id": row.id,
        "event": row.event,
        "host": urlsplit(row.url).netloc,
        "state": "waiting" if waits else "given_up" if row.delivered_ms is None else "delivered",
        "tries": row.tries,
        "next_try_at": instant_ms(row.next_ms),
        "delivered_at": instant_ms(row.delivered_ms),
        "said": row.said,
    }


def key(row: KeyRow) -> dict[str, Any]:
    """A key, without its hash."""
    return {
        "id": row.id,
        "tenant": row.tenant,
        "role": row.role,
        "note": row.note,
        "created_at": instant_ms(row.created_ms),
        "created_by": row.created_by,
        "expires_at": instant_ms(row.expires_ms),
        "revoked_at": instant_ms(row.revoked_ms),
    }
