"""`tide merge FILE`: one registered version out of several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.bars import byte_bar
from orchestrator.cli.home import home_dir
from orchestrator.cli.making import SAMPLES, Evaluate, Making, Samples, check_output, find_datasets, make, say
from orchestrator.cli.model_refs import open_registry
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.registry import Registry, Relation, Version
from orchestrator.spec import Merge, load_one
from orchestrator.spec.errors import ExitCode, UserError

if TYPE_CHECKING:
    from jobs.transform.merge import MergePlan, Recipe

app = typer.Typer(help="Merge registered models of one architecture.")


@app.command()
def merge(
    file: Annotated[Path, typer.Argument(help="YAML of kind Merge.", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and show what would be read, written and held.")
    ] = False,
    evaluate: Evaluate = None,
    samples: Samples = SAMPLES,
    output: Output = Format.TABLE,
) -> None:
    """Merge registered models into the next version of one, with lineage to all of them.

    Weights stream through block by block: memory does not grow with the models. With --evaluate, or where the file has
    a gate, parents and result are measured; a gate is checked on every data set, which are those the parents were
    trained on unless --evaluate names others. Exit 100: the gate was not reached, and nothing is registered.
    """
    from jobs.transform.merge import merge as run_merge
    from jobs.transform.merge import plan_merge

    spec = load_one(file, Merge)
    home, registry = home_dir(), open_registry()
    versions = _versions(spec, registry, file)
    recipe = _recipe(spec, versions, registry)
    plan = plan_merge(recipe)
    refs = _wanted_datasets(spec, versions, evaluate or [], file)
    datasets = find_datasets(refs, home)
    check_output(spec.spec.output.model, plan.written_bytes, home)
    if dry_run:
        _show_plan(spec, recipe, plan, list(datasets), output)
        return
    parents = tuple(versions.values())
    making = Making(model=spec.spec.output.model, parents=parents, relation=Relation.MERGE, tags=_tags(spec, recipe),
                    gate=spec.spec.output.gate, datasets=datasets, samples=samples)  # fmt: skip
    say(f"merging {', '.join(version.ref for version in parents)} by {spec.spec.method.name} ...")

    def build(out: Path) -> None:
        with byte_bar("merging", plan.read_bytes) as on_read:
            run_merge(recipe, out, on_read=on_read)

    made = make(making, registry, home, build)
    line = f"{made.version.ref}: {spec.spec.method.name} of {', '.join(one.ref for one in parents)}"
    emit("ModelVersion", made.document(registry), output, table=made.table(line))


def _versions(spec: Merge, registry: Registry, file: Path) -> dict[str, Version]:
    """The version behind every reference of the file, the base last. Raises: UserError for one that is there twice."""
    refs = [one.model for one in spec.spec.models] + ([spec.spec.base] if spec.spec.base else [])
    found = {ref: registry.get(ref) for ref in refs}
    for ref, count in Counter(version.ref for version in found.values()).items():
        if count > 1:
            names = " and ".join(name for name, version in found.items() if version.ref == ref)
            problem = f"{names} are one version, {ref}; each model must be another one"
            raise UserError(problem, where=str(file), code=ExitCode.CONFLICT, next_step="Name versions by number")
    return found


def _recipe(spec: Merge, versions: dict[str, Version], registry: Registry) -> Recipe:
    from jobs.transform.merge import Parent, Recipe

    def parent(ref: str, weight: float = 1.0) -> Parent:
        return Parent(name=versions[ref].ref, folder=registry.folder(versions[ref]), weight=weight)

    return Recipe(
        parents=tuple(parent(one.model, one.weight) for one in spec.spec.models),
        base=parent(spec.spec.base) if spec.spec.base else None,
        method=spec.spec.method,
        dtype=spec.spec.dtype,
    )


def _wanted_datasets(spec: Merge, versions: dict[str, Version], named: list[str], file: Path) -> list[str]:
    """Those that are named; for a gate without any, those that the parents were trained on."""
    if named or spec.spec.output.gate is None:
        return named
    origins = [version.provenance for version in versions.values() if version.provenance.dataset_hash]
    refs = dict.fromkeys(f"{one.dataset.partition('@')[0]}@{one.dataset_hash}" for one in origins)
    if not refs:
        problem = "spec.output.gate: none of the models says what it was trained on, so there is nothing to measure on"
        raise UserError(problem, where=str(file), next_step="Name a data set with --evaluate.")
    return list(refs)


def _tags(spec: Merge, recipe: Recipe) -> dict[str, str]:
    """The method and its parameters, beside the file's labels."""
    parameters = recipe.method.model_dump(mode="json", exclude={"name"})
    return {
        **spec.metadata.labels,
        "merge": spec.metadata.name,
        "method": recipe.method.name,
        **{f"method.{name}": str(value) for name, value in parameters.items()},
        "models": ", ".join(f"{one.name} x {one.weight:g}" for one in recipe.parents),
        **({"base": recipe.base.name} if recipe.base else {}),
        "dtype": recipe.dtype,
    }


def _show_plan(spec: Merge, recipe: Recipe, plan: MergePlan, datasets: list[str], output: Format) -> None:
    weights = {one.name: one.weight for one in recipe.parents}
    payload: dict[str, Any] = {
        "name": spec.metadata.name,
        "model": spec.spec.output.model,
        "method": recipe.method.model_dump(mode="json"),
        "models": [{"model": name, "weight": weight} for name, weight in weights.items()],
        "base": recipe.base.name if recipe.base else None,
        "dtype": recipe.dtype,
        "num_tensors": plan.num_tensors,
        "num_parameters": plan.num_parameters,
        "read_bytes": plan.read_bytes,
        "written_bytes": plan.written_bytes,
        "peak_bytes": plan.peak_bytes,
        "datasets": datasets,
        "gate": spec.spec.output.gate.model_dump(mode="json") if spec.spec.output.gate else None,
    }
    parameters = ", ".join(f"{key} {value}" for key, value in payload["method"].items() if key != "name")
    rows = [
        ["registers", f"the next version of {payload['model']}, in {recipe.dtype}"],
        ["method", f"{recipe.method.name} ({parameters})"],
        ["models", "\n".join(f"{name}  x {weight:g}" for name, weight in weights.items())],
        ["base", payload["base"]],
        ["tensors", f"{plan.num_tensors:,} with {plan.num_parameters:,} parameters"],
        ["reads", _mib(plan.read_bytes)],
        ["writes", _mib(plan.written_bytes)],
        ["holds at most", f"{_mib(plan.peak_bytes)} beside the program itself"],
        ["measures on", ", ".join(datasets) or "nothing"],
    ]
    emit("MergePlan", payload, output, table=make_table(["FIELD", "VALUE"], rows))


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
