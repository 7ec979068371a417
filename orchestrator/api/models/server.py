"""What happened, keys, logs, and how the server is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.api.models.base import Model
from orchestrator.ledger.keys import Role
from orchestrator.spec.names import NAME_PATTERN


class Event(Model):
    """Something that happened. `seq` rises; it is the id of a server-sent event, too."""

    seq: int
    at: str
    kind: str
    job: str | None
    attempt: int | None
    tenant: str | None
    actor: str
    data: dict[str, Any]


class EventList(Model):
    """A page of events, oldest first; `next_after` goes on where it ends."""

    items: list[Event]
    next_after: int


class NewKey(Model):
    """`expires_in_s` None: it holds until it is revoked."""

    tenant: str = Field(pattern=NAME_PATTERN)
    role: Role
    note: str = Field(default="", max_length=200)
    expires_in_s: float | None = Field(default=None, gt=0, le=10**9)


class IssuedKey(Model):
    """A new key. `key` stands here and nowhere else."""

    id: str
    tenant: str
    role: Role
    key: str


class Key(Model):
    """A key without its secret."""

    id: str
    tenant: str
    role: Role
    note: str
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None


class KeyList(Model):
    """A page of keys, in order of id."""

    items: list[Key]
    next_cursor: str | None


class LogPage(Model):
    """A part of one attempt's log, decoded as UTF-8; `next_offset` is a position in bytes."""

    job: str
    attempt: int
    offset: int
    next_offset: int
    ended: bool
    text: str


class Health(Model):
    """This process answers."""

    status: Literal["ok"]


class Readiness(Model):
    """Whether reads are answered, and somebody decides."""

    status: Literal["ok", "not_ready"]
    reason: str
    version: str
    leading: bool
    leader: str
    cycles: int
    last_cycle_at: str | None
    last_error: str | None
