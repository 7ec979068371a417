"""`tide keys`: API keys of the control plane, and of endpoints in the file that `Endpoint` names under `keys`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.control import server_keys
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import parse_name
from orchestrator.spec.problems import BadValueError
from serving.http.keys import KeyRecord, create_key, read_keys, revoke_key

app = typer.Typer(
    no_args_is_help=True,
    help="Create, list and revoke API keys: of the control plane, or of the endpoints that name a keys file.",
)
File = Annotated[
    Path | None, typer.Argument(help="An endpoint's keys file. None: the control plane's keys.", show_default=False)
]


class TierChoice(enum.StrEnum):
    """What `--tier` accepts."""

    KEYSTROKE = "keystroke"
    INTERACTIVE = "interactive"
    BATCH = "batch"


class RoleChoice(enum.StrEnum):
    """What `--role` accepts."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command("create")
def create(
    file: File = None,
    tenant: Annotated[str, typer.Option(help="Who uses it.")] = ...,  # type: ignore[assignment]
    tier: Annotated[
        list[TierChoice] | None, typer.Option(help="Endpoints: only these tiers; repeat it. Default: all.")
    ] = None,
    role: Annotated[RoleChoice | None, typer.Option(help="Control plane: the most it may do.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="DURATION", help="Control plane: holds so long.")] = None,
    note: Annotated[str, typer.Option(help="Free text, shown by 'ls'.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a key and print it; it is shown this once and stored nowhere."""
    _require_name(tenant)
    if file is None:
        _refuse(tier is not None, "--tier is for keys of endpoints; name their keys file")
        server_keys.create(tenant, (role or RoleChoice.OPERATOR).value, expires, note, output)
        return
    _refuse(role is not None or expires is not None, "--role and --expires are for keys of the control plane")
    key, record = create_key(file, tenant=tenant, tiers=[each.value for each in tier or ()], note=note)
    emit("ApiKey", {**_document(record), "key": key}, output, table=key)
    typer.echo(f"key {record.id} of tenant {tenant}; keep it, it cannot be shown again", err=True)


@app.command("ls")
def list_keys(file: File = None, output: Output = Format.TABLE) -> None:
    """The keys, without their secrets."""
    if file is None:
        server_keys.list_all(output)
        return
    items = [_document(record) for record in read_keys(file).keys]
    rows = [[item["id"], item["tenant"], ", ".join(item["tiers"] or ["all"]), item["created_at"],
             item["revoked_at"], item["note"]] for item in items]  # fmt: skip
    table = make_table(["ID", "TENANT", "TIERS", "CREATED", "REVOKED", "NOTE"], rows)
    emit("ApiKeyList", {"items": items}, output, table=table if items else "no key is in the file yet")


@app.command("revoke")
def revoke(
    named: Annotated[
        list[str], typer.Argument(metavar="[FILE] ID", help="The key's id, as 'ls' shows it.", show_default=False)
    ],
    output: Output = Format.TABLE,
) -> None:
    """Make a key useless at once; whoever runs refuses it from his next request on."""
    _refuse(len(named) > 2, "name one key: [FILE] ID")
    if len(named) == 1:
        server_keys.revoke(named[0], output)
        return
    record = revoke_key(Path(named[0]), named[1])
    emit("ApiKey", _document(record), output, table=f"key {record.id} of tenant {record.tenant} is revoked")


def _require_name(tenant: str) -> None:
    try:
        parse_name(tenant)
    except BadValueError as error:
        raise UserError(f"{error.what}; {error.want}", where="--tenant", next_step=error.next_step) from None


def _refuse(wrong: bool, problem: str) -> None:
    if wrong:
        raise UserError(problem, code=ExitCode.USAGE)


def _document(record: KeyRecord) -> dict[str, Any]:
    shown = ("id", "tenant", "note", "created_at", "revoked_at")
    return {**{name: getattr(record, name) for name in shown}, "tiers": list(record.tiers) if record.tiers else None}
