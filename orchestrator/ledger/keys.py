"""API keys: who may ask for what. Only the hash of a secret is kept; it is random, so that a plain hash will do."""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, update

from orchestrator.ledger import tables
from orchestrator.ledger.change import Change
from orchestrator.ledger.errors import LedgerError
from orchestrator.spec.errors import ExitCode

PREFIX = "tide"


class Role(enum.StrEnum):
    """The most a key may do: look, run jobs, change the cluster."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key as it is kept."""

    id: str
    tenant: str
    role: Role
    secret_hash: str
    note: str
    created_ms: int
    created_by: str
    expires_ms: int | None
    revoked_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as its owner gets it, once: `text` is what is sent as bearer token."""

    id: str
    text: str


def issue_key(change: Change, tenant: str, role: Role, *, note: str, expires_s: float | None) -> ApiKey:
    """A new key; 256 bits of secret."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = {
        "id": key_id,
        "tenant": tenant,
        "role": role.value,
        "secret_hash": _hash(secret),
        "note": note,
        "created_ms": change.now_ms,
        "created_by": change.actor,
        "expires_ms": None if expires_s is None else round(expires_s * 1000),
        "revoked_ms": None,
    }
    change.others.append((insert(tables.api_keys), [row]))
    change.event("key-issued", key=key_id, key_tenant=tenant, role=role)
    return ApiKey(id=key_id, text=f"{PREFIX}_{key_id}_{secret}")


def revoke_key(change: Change, key_id: str, known: set[str]) -> None:
    """Refuse a key from now on; one that is refused already stays so. Raises: LedgerError if there is none."""
    if key_id not in known:
        raise LedgerError(f"there is no key {key_id!r}", code=ExitCode.UNKNOWN, next_step="'tide keys ls' lists them")
    table = tables.api_keys
    mine = update(table).where(table.c.id == bindparam("of_id"), table.c.revoked_ms.is_(None))
    change.others.append((mine.values(revoked_ms=change.now_ms), [{"of_id": key_id}]))
    change.event("key-revoked", key=key_id)


def split(text: str) -> tuple[str, str] | None:
    """Id and secret of a key as it was sent; None for what is no key."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == PREFIX and key_id and secret else None


def matches(row: KeyRow, secret: str, *, now_s: float) -> bool:
    """Whether a secret is the key's, and the key holds; takes the same time whatever the secret is."""
    right = hmac.compare_digest(_hash(secret), row.secret_hash)
    expired = row.expires_ms is not None and row.expires_ms <= now_s * 1000
    return right and row.revoked_ms is None and not expired


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
