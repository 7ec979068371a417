"""`tide keys`: API keys of endpoints, in the file that `Endpoint` names under `keys`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.output import Format, Output, emit, make_table
from serving.http.keys import KeyRecord, create_key, read_keys, revoke_key

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
File = Annotated[Path, typer.Argument(help="The keys file.", show_default=False)]


class TierChoice(enum.StrEnum):
    """What `--tier` accepts."""

    KEYSTROKE = "keystroke"
    INTERACTIVE = "interactive"
    BATCH = "batch"


@app.command("create")
def create(
    file: File,
    tenant: Annotated[str, typer.Option(help="Who uses it: limits, files and batches are the tenant's.")],
    tier: Annotated[list[TierChoice] | None, typer.Option(help="Only these tiers; repeat it. Default: all.")] = None,
    note: Annotated[str, typer.Option(help="Free text, shown by 'ls'.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a key and print it; it is shown this once and stored nowhere."""
    key, record = create_key(file, tenant=tenant, tiers=[each.value for each in tier or ()], note=note)
    emit("ApiKey", {**_document(record), "key": key}, output, table=key)
    typer.echo(f"key {record.id} of tenant {tenant}; keep it, it cannot be shown again", err=True)


@app.command("ls")
def list_keys(file: File, output: Output = Format.TABLE) -> None:
    """The keys of a file, without their secrets."""
    items = [_document(record) for record in read_keys(file).keys]
    rows = [[item["id"], item["tenant"], ", ".join(item["tiers"] or ["all"]), item["created_at"],
             item["revoked_at"], item["note"]] for item in items]  # fmt: skip
    table = make_table(["ID", "TENANT", "TIERS", "CREATED", "REVOKED", "NOTE"], rows)
    emit("ApiKeyList", {"items": items}, output, table=table if items else "no key is in the file yet")


@app.command("revoke")
def revoke(
    file: File,
    key_id: Annotated[str, typer.Argument(help="The key's id, as 'ls' shows it.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Make a key useless at once; running endpoints refuse it from their next request on."""
    record = revoke_key(file, key_id)
    emit("ApiKey", _document(record), output, table=f"key {record.id} of tenant {record.tenant} is revoked")


def _document(record: KeyRecord) -> dict[str, Any]:
    shown = ("id", "tenant", "note", "created_at", "revoked_at")
    return {**{name: getattr(record, name) for name in shown}, "tiers": list(record.tiers) if record.tiers else None}
