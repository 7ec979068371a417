"""`tide quantize MODEL`: a registered version in fewer bits."""

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

app = typer.Typer(help="Make a registered model smaller.")
_GROUP = 32


class Bits(enum.StrEnum):
    """What `--bits` accepts."""

    EIGHT = "8"
    FOUR = "4"


@app.command()
def quantize(
    ref: Ref,
    bits: Annotated[Bits, typer.Option("--bits", help="Bits of a weight.", show_default=False)],
    group: Annotated[
        int | None, typer.Option("--group", help=f"Weights that share a scale with 4 bits; default {_GROUP}.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="Registered model that gets the version; default MODEL-int8, MODEL-int4.")
    ] = None,
    keep: Keep = None,
    evaluate: Evaluate = None,
    samples: Samples = SAMPLES,
    output: Output = Format.TABLE,
) -> None:
    """Register a version with its matrices in 8 or 4 bits, and lineage to the one it was made from.

    It is served like any other: with 'engine.precision: int8' an 8-bit version is computed in the same integers; with
    fp32 or bf16 its weights are expanded as it is loaded. With --evaluate, both versions are measured.
    """
    from jobs.transform.quantize import MAX_GROUP, Quantized
    from jobs.transform.quantize import quantize as run_quantize

    if group is not None and bits is Bits.EIGHT:
        raise UserError("--group has no effect with --bits 8, where each row has a scale", code=ExitCode.USAGE)
    size = group if group is not None else _GROUP
    if size % 2 or not 2 <= size <= MAX_GROUP:
        problem = f"--group is {size}; an even number in 2..{MAX_GROUP} would be right"
        raise UserError(problem, code=ExitCode.USAGE)
    home, registry = home_dir(), open_registry()
    version = registry.get(ref)
    model = name or f"{version.model}-int{bits.value}"
    check_output(model, version.num_bytes, home)
    tags = {"bits": bits.value, **({"group": str(size)} if bits is Bits.FOUR else {})}
    making = Making(model=model, parents=(version,), relation=Relation.QUANTIZED, tags=_kept(tags, keep or []),
                    datasets=find_datasets(evaluate or [], home), samples=samples)  # fmt: skip
    done: list[Quantized] = []

    def build(out: Path) -> None:
        with byte_bar("quantizing", version.num_bytes) as on_read:
            done.append(run_quantize(version.ref, registry.folder(version), out, bits=int(bits.value), group=size,
                                     keep=keep or [], on_read=on_read))  # fmt: skip

    made = make(making, registry, home, build)
    (said,) = done
    sizes = {"bytes_before": said.bytes_before, "bytes_after": said.bytes_after}
    tensors = {"num_packed": said.num_packed, "num_kept": said.num_kept}
    line = (
        f"{made.version.ref}: {said.num_packed} matrices of {version.ref} in {bits.value} bits, {said.num_kept} other"
        f" tensors as they were; {said.bytes_after / said.bytes_before:.0%} of its bytes"
    )
    emit("ModelVersion", {**made.document(registry), **sizes, **tensors}, output, table=made.table(line))


def _kept(tags: dict[str, str], keep: list[str]) -> dict[str, str]:
    return {**tags, **({"keep": ", ".join(keep)} if keep else {})}
