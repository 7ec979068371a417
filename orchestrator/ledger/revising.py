"""Another file for an endpoint that is there: its row and its document change, and its process rolls it out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, update

from orchestrator.ledger import tables
from orchestrator.ledger.change import Change
from orchestrator.ledger.errors import ConflictError
from orchestrator.ledger.life import move
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import HOLDING, JobState, Then
from orchestrator.spec import Endpoint, load_text
from orchestrator.spec.endpoint_changes import fixed_while_held

if TYPE_CHECKING:
    from orchestrator.ledger.submission import NewJob

_REPLACE = (
    update(tables.documents)
    .where(tables.documents.c.job == bindparam("of_job"))
    .values(document=bindparam("new_document"))
)
# Nothing of it runs: only who it is, and what the books say of it, is settled.
_SETTLED = ("metadata.name", "metadata.tenant", "spec.queue", "spec.replicas.resources", "spec.tiers")


def check(row: JobRow, new: NewJob, document: str) -> None:
    """Whether this endpoint may get that file as it is. Raises: ConflictError."""
    name, where = row.name, f"Endpoint {row.name}"
    if row.shape.kind != "Endpoint" or row.tenant != new.tenant:
        problem = f"job {name!r} is {row.state}; a name belongs to one job at a time"
        raise ConflictError(problem, next_step=f"Choose another name, or run 'tide cancel {name}' first")
    if row.state is JobState.DRAINING and row.then is Then.CANCELLED:
        raise ConflictError("it is being cancelled", where=where, next_step="Submit it again once it is gone")
    fixed = fixed_while_held(_endpoint(document, name), _endpoint(new.document, name))
    if row.state not in HOLDING:
        fixed = tuple(key for key in fixed if key in _SETTLED)
    if fixed:
        verb = "cannot change while it is there" if row.state not in HOLDING else "cannot change while it runs"
        step = f"Leave it as it is, or run 'tide cancel {name}' and submit it anew"
        raise ConflictError(f"{', '.join(fixed)} {verb}", where=where, next_step=step)
    pinned, low, high = row.pinned_workers, new.shape.sizes[0], new.shape.sizes[-1]
    if pinned is not None and not low <= pinned <= high:
        problem = f"spec.replicas: {low}..{high} leaves out the {pinned} replicas that it is pinned at"
        raise ConflictError(problem, where=where, next_step=f"Run 'tide resize {name} auto' first")


def revise(change: Change, row: JobRow, new: NewJob, documents: dict[str, str]) -> str:
    """Let another file hold, in `documents` too; the same again changes nothing. Returns the endpoint's id."""
    if json.loads(documents[row.id]) != json.loads(new.document):
        documents[row.id] = new.document
        moved = move(change, row, row.state, shape=new.shape)
        change.event("revised", moved, replicas=[new.shape.sizes[0], new.shape.sizes[-1]])
        change.others.append((_REPLACE, [{"of_job": row.id, "new_document": new.document}]))
    return row.id


def _endpoint(document: str, name: str) -> Endpoint:
    (endpoint,) = load_text(document, where=name)
    assert isinstance(endpoint, Endpoint), "its row says so"
    return endpoint
