"""`tide keys` for the control plane: who may ask its API for what."""

from __future__ import annotations

from orchestrator.cli.control.connect import connected, say, seconds
from orchestrator.cli.output import Format, emit, make_table
from orchestrator.spec.errors import UserError
from orchestrator.spec.names import matches

_COLUMNS = ("ID", "TENANT", "ROLE", "CREATED", "BY", "EXPIRES", "REVOKED", "NOTE")


def create(tenant: str, role: str, expires: str | None, note: str, output: Format) -> None:
    """Make a key and print it."""
    expires_in_s = None if expires is None else seconds(expires, "--expires")
    body = {"tenant": tenant, "role": role, "note": note, "expires_in_s": expires_in_s}
    with connected(start=True) as client:
        found = client.post("/keys", body)
    emit("ApiKey", found, output, table=found["key"])
    say(f"key {found['id']} of tenant {tenant}, {role}; keep it, it cannot be shown again")


def list_all(output: Format) -> None:
    """Print the keys without their secrets."""
    with connected() as client:
        found = {"items": list(client.every("/keys"))}
    keys = ("id", "tenant", "role", "created_at", "created_by", "expires_at", "revoked_at", "note")
    rows = [[one[key] for key in keys] for one in found["items"]]
    emit("ApiKeyList", found, output, table=make_table(_COLUMNS, rows) if rows else "no key was issued yet")


def revoke(key: str, output: Format) -> None:
    """Refuse a key from now on."""
    if not matches(r"[0-9a-f]{12}", key):
        raise UserError("that is no id of a key", next_step="'tide keys ls' shows the ids")  # it may be a key itself
    with connected(start=True) as client:
        found = client.delete(f"/keys/{key}")
    emit("ApiKey", found, output, table=f"key {found['id']} of tenant {found['tenant']} is revoked")
