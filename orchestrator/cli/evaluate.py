"""`tide models evaluate`: how good registered versions are on data they were not trained on."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.home import home_dir
from orchestrator.cli.making import SAMPLES, Samples, find_datasets, measure_all, measured_table
from orchestrator.cli.model_refs import open_registry, version_names
from orchestrator.cli.output import Format, Output, emit


def evaluate(
    refs: Annotated[
        list[str],
        typer.Argument(
            help="One or more of name, name@3, name@alias.", show_default=False, autocompletion=version_names
        ),
    ],
    on: Annotated[
        list[str], typer.Option("--on", help="A data set's validation split; may be given again.", show_default=False)
    ],
    samples: Samples = SAMPLES,
    output: Output = Format.TABLE,
) -> None:
    """Measure versions beside each other; nothing is registered."""
    registry = open_registry()
    versions = [registry.get(ref) for ref in refs]
    models = [(version.ref, registry.folder(version)) for version in versions]
    measured = measure_all(models, find_datasets(on, home_dir()), samples)
    items = [{"model": one.model, "dataset": one.dataset, "metrics": dict(one.metrics)} for one in measured]
    emit("ModelEvaluation", {"samples": samples, "items": items}, output, table=measured_table(measured))
