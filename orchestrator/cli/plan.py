"""`tide plan`: what a job would take at every world size, what a study would cost, what a budget buys."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Group
from rich.table import Table

from orchestrator.cli import plan_options as options
from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.plan_job import estimated
from orchestrator.cli.plan_optimal import Limits, bought, optimal_table
from orchestrator.cli.plan_pool import PoolFacts, pool_facts
from orchestrator.cli.plan_shown import estimate_table
from orchestrator.cli.study.forecast import describe_study, plan_table
from orchestrator.cli.study.rates import ClusterFile, PoolName, kept_rates, rates_of
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study, TrainJob, load_file, load_one
from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer()

_COLUMNS = ("WORKERS", "PASSES", "SPEED", "BUSY", "SAMPLES/WORKER", "ALSO")
_LINES_AROUND = 6  # what else is printed, and the prompt


@app.command()
def plan(
    file: Annotated[
        Path | None, typer.Argument(help="A YAML file with one TrainJob or one Study.", show_default=False)
    ] = None,
    decide: Annotated[bool, typer.Option("--decide", help="Also ask the server what it would decide now.")] = False,
    cluster: ClusterFile = None,
    pool: PoolName = None,
    usd: options.Price = None,
    watts: options.Watts = None,
    step_s: options.StepSeconds = None,
    device: options.DeviceName = None,
    peak_tflops: options.Peak = None,
    memory_gib: options.DeviceMemory = None,
    mfu: options.Mfu = None,
    goodput: options.Goodput = None,
    pue: options.Pue = None,
    carbon: options.Carbon = None,
    link_gbps: options.LinkRate = None,
    overlap: options.Overlap = None,
    recompute: options.Recompute = False,
    params: options.Params = None,
    sample_tokens: options.SampleTokens = None,
    deadline: options.Deadline = None,
    optimal: options.Optimal = False,
    budget_usd: options.BudgetUsd = None,
    budget_hours: options.BudgetHours = None,
    budget_kwh: options.BudgetKwh = None,
    budget_flops: options.BudgetFlops = None,
    max_devices: options.MaxDevices = None,
    served_tokens: options.ServedTokens = None,
    output: Output = Format.TABLE,
) -> None:
    """Show the world sizes that make a job faster and how busy its workers are at each, or what a study would cost.

    With a kind of device (--device, or --cluster), also the time, money, energy and memory of every size, with ranges
    and what they assume. With --optimal and no file: the model and the tokens that a budget buys. With --decide, also
    the decision that 'tide submit' would get for a job now. Exit 3 for a file or a value that is not valid, 8 for what
    can never be: no memory for it on any allowed number of devices, a deadline that the fastest size misses.
    """
    rates = rates_of(cluster, pool, usd, watts)
    asked = options.Asked(
        device=device,
        peak_tflops=peak_tflops,
        memory_gib=memory_gib,
        mfu=mfu,
        goodput=goodput,
        usd=rates.usd_per_device_hour or None,  # a pool without a price is free, and a bill of nothing tells nothing
        watts=rates.watts_per_device or None,
        pue=pue,
        carbon=carbon,
        link_gbps=link_gbps,
        overlap=overlap,
        recompute=recompute,
        params=options.count("--params", params),
        sample_tokens=options.count("--tokens-per-sample", sample_tokens),
        deadline_s=options.duration("--deadline", deadline),
        step_s=step_s or None,
    )
    limits = Limits(
        usd=budget_usd,
        device_hours=budget_hours,
        kwh=budget_kwh,
        flops=budget_flops,
        max_devices=max_devices,
        served_tokens=options.count("--served-tokens", served_tokens, least=0.0),
    )
    facts = pool_facts(cluster, pool)
    if optimal:
        _plan_optimal(file, limits, asked, facts.device, output)
        return
    if file is None:
        _refuse("there is nothing to plan; it takes a file, or --optimal and a budget")
    if limits.any_given:
        _refuse("budgets, --max-devices and --served-tokens have no effect with a file; they are for --optimal")
    specs = load_file(file)
    if len(specs) == 1 and isinstance(specs[0], Study):
        if asked.wants_more_than_rates:
            _refuse("only prices, power and --step-seconds have an effect on a study")
        _plan_study(specs[0], rates, step_s, output)
        return
    job = load_one(file, TrainJob, now=dt.datetime.now(dt.UTC) if decide else None)
    described = _described(job, asked, facts)
    if decide:
        from orchestrator.cli.control.submitting import decision_line, decision_of

        described["decision"] = decision_of(job)
        if output is Format.TABLE:
            sys.stderr.write(decision_line(described["decision"]) + "\n")
    emit("TrainPlan", described, output, table=_tables(described))


def _described(job: TrainJob, asked: options.Asked, pool: PoolFacts) -> dict[str, Any]:
    """The staircase, and the estimates where a device or a figure of one was named."""
    spec = job.spec
    batch = BatchPlan(spec.batch.global_batch_size, spec.batch.micro_batch_size)
    described = describe(job.metadata.name, batch, spec.workers.min, spec.workers.max)
    if asked.step_s is not None or asked.wants_more_than_rates or pool.device is not None:
        # A measured step needs no peak, so a pool of devices that the table lacks is no trouble then.
        usable = pool.device if asked.step_s is None or options.known(pool.device) else None
        with options.naming("tide plan"):
            described["estimate"] = estimated(job, asked, asked.chosen_device(usable), pool.link)
    elif asked.usd is not None or asked.watts is not None:
        _refuse("a price or power of devices has no effect on a job without --device, --cluster or --step-seconds")
    return described


def _refuse(what: str) -> NoReturn:
    raise UserError(what, code=ExitCode.USAGE, where="tide plan", next_step="Leave it out, or see 'tide plan --help'")


def _plan_optimal(
    file: Path | None, limits: Limits, asked: options.Asked, pool_device: str | None, output: Format
) -> None:
    if file is not None:
        _refuse(f"{file} has no effect with --optimal, which asks what to train and not how")
    device = asked.chosen_device(pool_device)
    if device is None:
        what = "is missing; what a budget buys follows from a device's peak, price and power"
        raise UserError(what, where="--device", next_step="Add it, such as --device h100")
    with options.naming("tide plan --optimal"):
        found = bought(limits, asked, device)
    emit("BudgetPlan", found, output, table=optimal_table(found))


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


def _tables(plan: dict[str, Any]) -> Table | Group:
    if "estimate" not in plan:
        return _table(plan)
    room = _room()
    shown = _thin([size for size in plan["sizes"] if size["useful"]], None if room is None else max(4, room // 2 - 2))
    return Group(_table(plan), "", estimate_table(plan["estimate"], [size["workers"] for size in shown]))


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
