"""`tide models prune`: a registered version whose smallest weights are 0."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.bars import byte_bar
from orchestrator.cli.home import home_dir
from orchestrator.cli.making import SAMPLES, Evaluate, Keep, Making, Samples, check_output, find_datasets, make
from orchestrator.cli.model_refs import Ref, open_registry
from orchestrator.cli.output import Format, Output, emit
from orchestrator.registry import Relation
from orchestrator.spec.errors import ExitCode, UserError


class Scope(enum.StrEnum):
    """What `--scope` accepts."""

    MODEL = "model"
    TENSOR = "tensor"


def prune(
    ref: Ref,
    sparsity: Annotated[
        float,
        typer.Option("--sparsity", help="Part of the weights that becomes 0, between 0 and 1.", show_default=False),
    ],
    scope: Annotated[
        Scope, typer.Option("--scope", help="The smallest of all matrices together, or of each tensor.")
    ] = Scope.MODEL,
    name: Annotated[
        str | None, typer.Option("--as", help="Registered model that gets the version; default MODEL-pruned.")
    ] = None,
    keep: Keep = None,
    evaluate: Evaluate = None,
    samples: Samples = SAMPLES,
    output: Output = Format.TABLE,
) -> None:
    """Register a version whose weights of smallest magnitude are 0, with lineage to the one it was made from.

    Norms and biases stay. The file is as large as before: zeros help whoever packs it, or trains on from it.
    """
    from jobs.transform.prune import PASSES, Pruned
    from jobs.transform.prune import prune as run_prune

    if not 0 < sparsity < 1:
        problem = f"--sparsity is {sparsity:g}; a number above 0 and below 1 would be right"
        raise UserError(problem, code=ExitCode.USAGE)
    home, registry = home_dir(), open_registry()
    version = registry.get(ref)
    model = name or f"{version.model}-pruned"
    check_output(model, version.num_bytes, home)
    kept = {"keep": ", ".join(keep)} if keep else {}
    making = Making(model=model, parents=(version,), relation=Relation.FINETUNE,
                    tags={"transform": "prune", "sparsity": f"{sparsity:g}", "scope": scope.value, **kept},
                    datasets=find_datasets(evaluate or [], home), samples=samples)  # fmt: skip
    done: list[Pruned] = []

    def build(out: Path) -> None:
        with byte_bar("pruning", version.num_bytes * PASSES) as on_read:
            source, per_tensor = registry.folder(version), scope is Scope.TENSOR
            done.append(run_prune(version.ref, source, out, sparsity=sparsity, per_tensor=per_tensor, keep=keep or [],
                                  on_read=on_read))  # fmt: skip

    made = make(making, registry, home, build)
    (said,) = done
    counts = {"num_weights": said.num_weights, "num_zero": said.num_zero, "sparsity": said.sparsity}
    line = (
        f"{made.version.ref}: {said.num_zero:,} of the {said.num_weights:,} weights of {version.ref}'s matrices are 0"
    )
    emit("ModelVersion", {**made.document(registry), **counts}, output, table=made.table(line))
