"""`tide plan FILE`: what a training job would do at every world size, or what a study would cost, before it runs."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.study.forecast import describe_study, plan_table
from orchestrator.cli.study.rates import ClusterFile, PoolName, Price, Watts, kept_rates, rates_of
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study, TrainJob, load_file, load_one

app = typer.Typer()

_COLUMNS = ("WORKERS", "PASSES", "SPEED", "BUSY", "SAMPLES/WORKER", "ALSO")
_LINES_AROUND = 6  # what else is printed, and the prompt


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A YAML file with one TrainJob or one Study.", show_default=False)],
    decide: Annotated[bool, typer.Option("--decide", help="Also ask the server what it would decide now.")] = False,
    cluster: ClusterFile = None,
    pool: PoolName = None,
    usd: Price = None,
    watts: Watts = None,
    step_s: Annotated[
        float | None, typer.Option("--step-seconds", min=0.0, help="For a study: device-seconds of one step.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the world sizes that make a job faster and how busy its workers are at each, or what a study would cost.

    With --decide, also the decision that 'tide submit' would get for a job now. Exit 3 when the file is neither a
    valid TrainJob nor a valid Study.
    """
    specs = load_file(file)
    if len(specs) == 1 and isinstance(specs[0], Study):
        _plan_study(specs[0], rates_of(cluster, pool, usd, watts), step_s, output)
        return
    job = load_one(file, TrainJob, now=dt.datetime.now(dt.UTC) if decide else None)
    spec = job.spec
    batch = BatchPlan(spec.batch.global_batch_size, spec.batch.micro_batch_size)
    described = describe(job.metadata.name, batch, spec.workers.min, spec.workers.max)
    if decide:
        from orchestrator.cli.control.submitting import decision_line, decision_of

        described["decision"] = decision_of(job)
        if output is Format.TABLE:
            sys.stderr.write(decision_line(described["decision"]) + "\n")
    emit("TrainPlan", described, output, table=_table(described))


def _plan_study(study: Study, given: Rates, step_s: float | None, output: Format) -> None:
    """A study that has run knows what its steps cost; another one needs to be told."""
    from orchestrator.study.journal import FILE, read_journal
    from orchestrator.study.meter import Meter
    from orchestrator.study.record import StudyRecord

    folder = home_dir() / "studies" / study.metadata.name
    before = kept_rates(folder)
    rates = Rates(
        usd_per_device_hour=given.usd_per_device_hour or before.usd_per_device_hour,
        watts_per_device=given.watts_per_device or before.watts_per_device,
    )
    if step_s is None and (folder / FILE).exists():
        step_s = Meter(rates, 1.0).per_step(StudyRecord(read_journal(folder))) or None
    described = describe_study(study, rates, step_s)
    emit("StudyPlan", described, output, table=plan_table(described))


def describe(name: str, batch: BatchPlan, min_workers: int, max_workers: int) -> dict[str, Any]:
    """The plan as JSON values; ratios are fractions, `speed` is relative to the smallest size."""
    useful = batch.useful_sizes(min_workers, max_workers)
    sizes = [_size(batch, workers, min_workers, workers in useful) for workers in range(min_workers, max_workers + 1)]
    return {
        "name": name,
        "global_batch_size": batch.global_batch_size,
        "micro_batch_size": batch.micro_batch_size,
        "num_micro_batches": batch.num_micro_batches,
        "workers": {"min": min_workers, "max": max_workers},
        "useful_sizes": list(useful),
        "mean_balance": sum(size["balance"] for size in sizes) / len(sizes),
        "min_balance": min(size["balance"] for size in sizes),
        "sizes": sizes,
    }


def _size(batch: BatchPlan, workers: int, min_workers: int, useful: bool) -> dict[str, Any]:
    # The least is done by the last rank or by the one that runs the short last micro-batch.
    least = {workers - 1, (batch.num_micro_batches - 1) % workers}
    return {
        "workers": workers,
        "useful": useful,
        "passes": batch.passes(workers),
        "speed": batch.throughput(workers) / batch.throughput(min_workers),
        "balance": batch.balance(workers),
        "samples_per_worker": {
            "min": min(batch.rank_samples(workers, rank) for rank in least),
            "max": batch.rank_samples(workers, 0),
        },
    }


def _table(plan: dict[str, Any]) -> Table:
    useful = [size for size in plan["sizes"] if size["useful"]]
    shown = _thin(useful, _room())
    following = {size["workers"]: after["workers"] - 1 for size, after in itertools.pairwise(useful)}
    table = make_table(
        _COLUMNS, [_row(size, following.get(size["workers"], plan["workers"]["max"])) for size in shown], right=_COLUMNS
    )
    least, most = plan["workers"]["min"], plan["workers"]["max"]
    table.title = (
        f"{plan['name']}: {plan['global_batch_size']} samples a step in {plan['num_micro_batches']} micro-batches of "
        f"{plan['micro_batch_size']}, {least if least == most else f'{least} to {most}'} workers"
    )
    table.title_justify = "left"
    left_out = f"{len(useful) - len(shown)} more useful sizes: -o json. " if len(shown) < len(useful) else ""
    also = "Sizes under ALSO are as fast as their row's and cost more. " if len(useful) <= most - least else ""
    table.caption = (
        f"{left_out}{also}Busy over all sizes: "
        f"{plan['mean_balance']:.1%} on average, {plan['min_balance']:.1%} at least."
    )
    table.caption_justify = "left"
    return table


def _row(size: dict[str, Any], last_as_fast: int) -> list[str]:
    samples = size["samples_per_worker"]
    first = size["workers"] + 1
    return [
        str(size["workers"]),
        str(size["passes"]),
        f"{size['speed']:.2f}x",
        f"{size['balance']:.1%}",
        f"{samples['min']}-{samples['max']}" if samples["min"] < samples["max"] else str(samples["max"]),
        "" if last_as_fast < first else f"{first}-{last_as_fast}" if last_as_fast > first else str(first),
    ]


def _room() -> int | None:
    """Rows that fit the terminal; None where the output goes elsewhere."""
    return max(4, shutil.get_terminal_size().lines - _LINES_AROUND) if sys.stdout.isatty() else None


def _thin(sizes: list[dict[str, Any]], room: int | None) -> list[dict[str, Any]]:
    """Evenly chosen sizes, first and last among them, where not all fit."""
    if room is None or len(sizes) <= room:
        return sizes
    return [sizes[round(i * (len(sizes) - 1) / (room - 1))] for i in range(room)]
