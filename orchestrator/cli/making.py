"""What `tide merge`, `quantize` and `models prune` share: out of registered versions a new one, measured beside them.

The model is made in a folder of its own, which the next such command sweeps should this one be killed; it is registered
as a whole or not at all, and the same command registers the same bytes under the number they have.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from orchestrator.cli.output import make_table
from orchestrator.registry import Lineage, Provenance, Registry, Relation, Version, to_document
from orchestrator.registry.gate import check_gate
from orchestrator.registry.names import check_model_name
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.job_parts import Gate

SAMPLES = 256  # as after training, so that figures can be compared

Evaluate = Annotated[
    list[str] | None,
    typer.Option("--evaluate", help="Measure on this data set's validation split; may be given again."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Samples of it, spread evenly.")]
Keep = Annotated[
    list[str] | None, typer.Option("--keep", help="Leave matrices called like this alone: 'embedding.*' say.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model's metrics on one data set."""

    model: str
    dataset: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A version that is to be made, and where it comes from; `datasets` (name@version -> folder) is what it and its
    parents are measured on."""

    model: str
    parents: tuple[Version, ...]
    relation: Relation
    tags: Mapping[str, str]
    gate: Gate | None = None
    datasets: Mapping[str, Path] = field(default_factory=dict)
    samples: int = SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was registered, and how good it and its parents are."""

    version: Version
    measured: tuple[Measured, ...]

    def document(self, registry: Registry) -> dict[str, Any]:
        """For programs: the version as `tide models show` has it, and the measurements."""
        rows = [{"model": one.model, "dataset": one.dataset, "metrics": dict(one.metrics)} for one in self.measured]
        return {**to_document(self.version), "folder": str(registry.folder(self.version)), "measured": rows}

    def table(self, line: str) -> RenderableType:
        """For people: a line, and the measurements if there are any."""
        return Group(line, measured_table(self.measured)) if self.measured else line


def make(making: Making, registry: Registry, home: Path, build: Callable[[Path], object]) -> Made:
    """Build the model in a new folder, measure it, register it.

    Raises: UserError (job_failed) when its gate is not reached; nothing is registered then.
    """
    from jobs.data.folders import workspace, writing

    parent = home / "transforms"
    with writing(parent):
        parent.mkdir(exist_ok=True)
    with workspace(parent) as work:
        folder = work / "model"
        build(folder)
        inputs = [(version.ref, registry.folder(version)) for version in making.parents]
        measured = measure_all([*inputs, (making.model, folder)], making.datasets, making.samples)
        own = [one for one in measured if one.model == making.model]
        if making.gate is not None:
            for one in own:
                check_gate(making.gate, one.metrics, where=f"{making.model} on {one.dataset}")
        say(f"registering {making.model} ...")
        version = registry.register(making.model, folder, _provenance(making, own))
    named = [Measured(model=version.ref if one in own else one.model, dataset=one.dataset, metrics=one.metrics)
             for one in measured]  # fmt: skip
    return Made(version=version, measured=tuple(named))


def find_datasets(refs: Sequence[str], home: Path) -> dict[str, Path]:
    """Folders of data sets by `name@version`. Raises: UserError for one that is not here, or is named twice."""
    from jobs.data import ensure_dataset
    from jobs.data.store import parse_ref

    found: dict[str, Path] = {}
    for ref in refs:
        name, folder = parse_ref(ref)[0], ensure_dataset(ref, home)
        if any(one.partition("@")[0] == name for one in found):
            raise UserError(f"the data set {name} is named twice", where="--evaluate", code=ExitCode.USAGE)
        found[f"{name}@{folder.name[:12]}"] = folder
    return found


def measure_all(models: Sequence[tuple[str, Path]], datasets: Mapping[str, Path], samples: int) -> tuple[Measured, ...]:
    """Every model on every data set."""
    if not datasets:
        return ()
    from jobs.transform.measure import measure

    found = []
    for model, folder in models:
        for dataset, place in datasets.items():
            say(f"measuring {model} on {dataset} ...")
            metrics = measure(folder, place, max_samples=samples)
            found.append(Measured(model=model, dataset=dataset, metrics=metrics))
    return tuple(found)


def measured_table(measured: Sequence[Measured]) -> RenderableType:
    """Models down, metrics across."""
    names = sorted({name for one in measured for name in one.metrics})
    rows = [
        [one.model, one.dataset, *(f"{one.metrics[name]:.4f}" if name in one.metrics else "" for name in names)]
        for one in measured
    ]
    return make_table(["MODEL", "DATA SET", *names], rows, right=names)


def check_output(name: str, num_bytes: int, home: Path) -> None:
    """Raises: UserError for a name that no model can have, or a disk without room for the result twice: as it is made,
    and as it is registered."""
    check_model_name(name)
    free = shutil.disk_usage(home).free
    if free < 2 * num_bytes:
        problem = f"{free / 2**30:.1f} GiB are free, and making {name} takes {2 * num_bytes / 2**30:.1f} GiB"
        raise UserError(problem, where=str(home), next_step="Free some, or name another folder (TIDE_HOME).")


def say(line: str) -> None:
    """What is going on, on stderr."""
    typer.echo(line, err=True)


def _provenance(making: Making, own: Sequence[Measured]) -> Provenance:
    tags = dict(making.tags)
    if own:
        tags |= {"evaluated_on": ", ".join(one.dataset for one in own), "evaluated_samples": str(making.samples)}
    return Provenance(
        code_version=f"tideline {importlib.metadata.version('tideline')}",
        metrics=_figures(own),
        tags=tags,
        lineage=Lineage(relation=making.relation, parents=tuple(version.ref for version in making.parents)),
    )


def _figures(own: Sequence[Measured]) -> dict[str, float]:
    """The metrics of a version: with several data sets their mean, and each as `metric.dataset`."""
    if len(own) == 1:
        return dict(own[0].metrics)
    shared = sorted(set.intersection(*(set(one.metrics) for one in own))) if own else []
    means = {name: fmean(one.metrics[name] for one in own) for name in shared}
    parts = {f"{name}.{one.dataset.partition('@')[0]}": value for one in own for name, value in one.metrics.items()}
    return {**means, **parts}
