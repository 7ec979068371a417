"""`tide models`: list, show, verify, alias, measure and prune registered models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.evaluate import evaluate
from orchestrator.cli.model_refs import Ref, open_registry
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.prune import prune
from orchestrator.registry import Registry, Version, to_document
from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer(no_args_is_help=True, help="List, inspect, measure and prune registered models.")
app.command("evaluate")(evaluate)
app.command("prune")(prune)


@app.command("ls")
def list_models(
    name: Annotated[str | None, typer.Argument(help="Only this model, with all its versions.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """The newest version of every model, or every version of one."""
    registry = open_registry()
    names = [name] if name else registry.models()
    versions = [v for each in names for v in (registry.versions(each) if name else [registry.get(each)])]
    items = [_document(registry, version) for version in versions]
    emit("ModelVersionList", {"items": items}, output, table=_table(items) if items else "no model is registered yet")


@app.command("show")
def show(ref: Ref, output: Output = Format.TABLE) -> None:
    """One version: its files, where it came from, how good it is."""
    registry = open_registry()
    document = _document(registry, registry.get(ref))
    emit("ModelVersion", document, output, table=make_table(["FIELD", "VALUE"], _facts(document)))


@app.command("verify")
def verify(ref: Ref, output: Output = Format.TABLE) -> None:
    """Read every byte of a version again and compare it with what was registered (exit 3 when something differs)."""
    registry = open_registry()
    version = registry.get(ref)
    damages = registry.verify(version)
    result = {
        "model": version.model,
        "number": version.number,
        "whole": not damages,
        "damaged": [{"path": damage.path, "problem": damage.problem} for damage in damages],
    }
    emit("ModelVerification", result, output, table=f"{version.ref}: {len(version.files)} files read")
    if damages:
        first = damages[0]
        raise UserError(f"{len(damages)} of {len(version.files)} files differ; {first.path}: {first.problem}",
                        where=version.ref, code=ExitCode.INVALID,
                        next_step="Register the same files again to mend them, or move its aliases.")  # fmt: skip


@app.command("alias")
def alias(
    ref: Ref,
    name: Annotated[str, typer.Argument(help="The alias, such as champion.", show_default=False)],
    remove: Annotated[
        bool, typer.Option("--remove", help="Forget the alias of this model; the version stays.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Let an alias name a version; endpoints that follow the alias load it."""
    registry = open_registry()
    if remove:
        registry.remove_alias(ref, name)
        result: dict[str, Any] = {"model": ref, "alias": name, "number": None}
        said = f"{ref} has no alias {name} any more"
    else:
        version = registry.set_alias(ref, name)
        result = {"model": version.model, "alias": name, "number": version.number}
        said = f"{version.model}@{name} is now {version.ref}"
    emit("ModelAlias", result, output, table=said)


def _document(registry: Registry, version: Version) -> dict[str, Any]:
    aliases = [name for name, number in registry.aliases(version.model).items() if number == version.number]
    return {**to_document(version), "aliases": aliases, "folder": str(registry.folder(version))}


def _table(items: list[dict[str, Any]]) -> Any:
    rows = [
        [f"{item['model']}@{item['number']}", ", ".join(item["aliases"]), f"{item['num_parameters']:,}",
         _metrics(item), item["provenance"]["run"], item["created_at"][:19]]
        for item in items
    ]  # fmt: skip
    return make_table(["VERSION", "ALIASES", "PARAMETERS", "METRICS", "RUN", "REGISTERED"], rows, right=["PARAMETERS"])


def _facts(document: dict[str, Any]) -> list[list[object]]:
    origin = document["provenance"]
    lineage = origin["lineage"] or {"relation": "", "parents": []}
    files = "\n".join(f"{e['path']}  {e['num_bytes']:,} bytes  sha256 {e['sha256']}" for e in document["files"])
    return [
        ["version", f"{document['model']}@{document['number']}"],
        ["aliases", ", ".join(document["aliases"])],
        ["registered", document["created_at"]],
        ["parameters", f"{document['num_parameters']:,}"],
        ["metrics", _metrics(document)],
        ["data set", f"{origin['dataset']} {origin['dataset_hash']}".strip()],
        ["code", origin["code_version"]],
        ["run", origin["run"]],
        ["parents", f"{lineage['relation']} of {', '.join(lineage['parents'])}" if lineage["parents"] else "none"],
        ["tags", ", ".join(f"{key}={value}" for key, value in origin["tags"].items())],
        ["files", files],
        ["folder", document["folder"]],
    ]


def _metrics(document: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in document["provenance"]["metrics"].items())
