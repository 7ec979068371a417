"""`tide simulate`: replay recorded capacity against a policy and print its bill."""

from __future__ import annotations

import json
from pathlib import Path

import typer
import yaml

from orchestrator.cli.output import Format, Output
from orchestrator.sim.policies import NAMES, play
from orchestrator.sim.result import Result, summarize
from orchestrator.sim.scenario import load_world

app = typer.Typer()


@app.command()
def simulate(
    file: Path = typer.Argument(..., metavar="FILE", help="A Scenario file."),
    policy: str = typer.Option("", "--policy", help=f"Instead of the file's policy: {', '.join(NAMES)}."),
    plot: Path | None = typer.Option(None, "--plot", metavar="FILE.png|.html", help="Also draw the run."),
    output: Output = Format.TABLE,
) -> None:
    """Replay recorded capacity against a policy."""
    if plot is not None:
        from orchestrator.sim.plot import check_target

        check_target(plot)
    world, asked = load_world(file)
    run = play(world, policy or asked)
    result = summarize(run)
    if world.holes:
        typer.echo(f"note: {world.holes} ticks of the series have no row; the row before was repeated", err=True)
    if world.rate_holes:
        typer.echo(
            f"note: {world.rate_holes} rows of the price or carbon series seem to be missing; the row before holds on",
            err=True,
        )
    if plot is not None:
        from orchestrator.sim.plot import draw_run

        draw_run(run, result, plot)
        typer.echo(f"wrote {plot}", err=True)
    typer.echo(_said(result, output))


def _said(result: Result, output: Format) -> str:
    # A contract with other programs: the bare object, without apiVersion and kind.
    match output:
        case Format.JSON:
            return json.dumps(result.as_dict(), indent=2)
        case Format.YAML:
            return yaml.safe_dump(result.as_dict(), sort_keys=False).rstrip("\n")
        case Format.TABLE:
            return as_table(result)


def as_table(result: Result) -> str:
    """The result for people: one line per figure."""
    rows = [(key, _human(key, value)) for key, value in result.as_dict().items()]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key.ljust(width)}  {value}" for key, value in rows)


def _human(key: str, value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float() if key in ("savings", "training_goodput"):
            return f"{value:.1%}"
        case float():
            return f"{value:,.2f}"
        case _:
            return str(value)
