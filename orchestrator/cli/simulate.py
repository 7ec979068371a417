"""`tide simulate`: replay recorded capacity against a policy and print its bill."""

from __future__ import annotations

import enum
import json
from pathlib import Path

import typer

from orchestrator.sim.policies import NAMES, play
from orchestrator.sim.result import Result, summarize
from orchestrator.sim.scenario import load_world

app = typer.Typer()


class Output(enum.StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"


@app.command()
def simulate(
    file: Path = typer.Argument(..., metavar="FILE", help="A Scenario file."),
    output: Output = typer.Option(Output.TABLE, "--output", "-o", help="Form of the result."),
    policy: str = typer.Option("", "--policy", help=f"Instead of the file's policy: {', '.join(NAMES)}."),
    plot: Path | None = typer.Option(None, "--plot", metavar="FILE.png|.html", help="Also draw the run."),
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
    typer.echo(json.dumps(result.as_dict(), indent=2) if output is Output.JSON else as_table(result))


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
