"""How each class of rows is stored."""

from __future__ import annotations

import json

from orchestrator.ledger import tables
from orchestrator.ledger.rows import (
    AccountRow,
    AttemptRow,
    ClaimRow,
    JobRow,
    JobShape,
    LeaseRow,
    MeterRow,
    NoticeRow,
    OrderRow,
    PromiseRow,
    RecentRow,
    ScheduleRow,
    TempoRow,
)
from orchestrator.ledger.shelf import Form, dumps
from orchestrator.ledger.states import Cause, JobState, Outcome, Then, Unit
from orchestrator.policy.queueing.values import LeaseState


def _pairs(text: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, count) for name, count in json.loads(text))


JOBS = Form(
    tables.jobs,
    JobRow,
    ("id",),
    write={"shape": JobShape.to_text},
    read={"shape": JobShape.from_text, "state": JobState, "then": Then, "paid_in": Unit},
    counted=True,
)
ATTEMPTS = Form(
    tables.attempts,
    AttemptRow,
    ("job", "attempt"),
    write={"held_ms": dumps},
    read={"held_ms": _pairs, "cause": Cause, "outcome": Outcome},
)
LEASES = Form(
    tables.leases,
    LeaseRow,
    ("id",),
    write={"nodes": dumps},
    read={"nodes": _pairs, "state": LeaseState},
    group="holder",
)
METERS = Form(tables.meters, MeterRow, ("pool",))
ACCOUNTS = Form(tables.accounts, AccountRow, ("name", "unit"), read={"unit": Unit})
ORDERS = Form(tables.outbox, OrderRow, ("id",), group="job")
RECENTS = Form(tables.recents, RecentRow, ("tenant", "resource"))
CLAIMS = Form(tables.claims, ClaimRow, ("job",))
PROMISES = Form(tables.promises, PromiseRow, ("job",))
TEMPOS = Form(tables.tempos, TempoRow, ("job",))
SCHEDULES = Form(
    tables.schedules,
    ScheduleRow,
    ("name",),
    write={"instances": dumps},
    read={"instances": lambda text: tuple(json.loads(text))},
)
NOTICES = Form(tables.notices, NoticeRow, ("id",))
