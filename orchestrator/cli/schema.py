"""`tide schema KIND`: prints the JSON Schema of a kind; `--all DIR` writes those of all kinds."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from orchestrator.spec import KINDS, ExitCode, UserError
from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.schema import json_schema

app = typer.Typer()
_KINDS = ", ".join(KINDS)


@app.command(help=f"Print the JSON Schema of a kind, for editors. Kinds: {_KINDS}.")
def schema(
    kind: str | None = typer.Argument(None, help=f"One of {_KINDS}."),
    folder: Path | None = typer.Option(None, "--all", metavar="DIR", help="Write every kind to DIR/KIND.schema.json."),
) -> None:
    """Print one schema, or write all of them."""
    if (kind is None) == (folder is None):
        raise UserError("name a kind or --all DIR, not both", code=ExitCode.USAGE, next_step=f"The kinds are {_KINDS}")
    if folder is not None:
        for path in _write_all(folder):
            typer.echo(str(path))
        return
    assert kind is not None
    if kind not in KINDS:
        raise UserError(
            f"there is no kind {kind!r}; it must be one of {_KINDS}",
            code=ExitCode.USAGE,
            next_step=did_you_mean(kind, tuple(KINDS)) or "Run 'tide schema --help'",
        )
    typer.echo(_text(kind))


def _write_all(folder: Path) -> list[Path]:
    paths = [folder / f"{kind}.schema.json" for kind in KINDS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, path in zip(KINDS, paths, strict=True):
            path.write_text(_text(kind) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot be written ({(error.strerror or str(error)).lower()})",
            where=str(error.filename or folder),
            next_step="Name a folder that you may write to",
        ) from None
    return paths


def _text(kind: str) -> str:
    return json.dumps(json_schema(kind), indent=2, sort_keys=False)
