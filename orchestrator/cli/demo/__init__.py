"""`tide demo`: the whole way on this machine in a few minutes, and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer()

Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Train for so many steps instead.")]
Prompt = Annotated[str, typer.Option("--prompt", help="What the served model is asked to go on with.")]
Configs = Annotated[Path | None, typer.Option("--configs", help="Folder with jobs/demo.yaml and endpoints/demo.yaml.")]

_PROMPT = "def fibonacci(n):"


@app.callback(invoke_without_command=True)
def demo(ctx: typer.Context, steps: Steps = None, prompt: Prompt = _PROMPT, configs: Configs = None) -> None:
    """Pack data, train, register, serve, complete, play a day, report; then leave nothing running."""
    if ctx.invoked_subcommand is None:
        _run(("train", "serve", "day"), steps, prompt, configs)


@app.command()
def train(steps: Steps = None, configs: Configs = None) -> None:
    """Only pack the data, train the small model and register it."""
    _run(("train",), steps, _PROMPT, configs)


@app.command()
def serve(prompt: Prompt = _PROMPT, configs: Configs = None) -> None:
    """Only serve the newest version that a demo has trained, and ask it for a completion."""
    _run(("serve",), None, prompt, configs)


@app.command("day")
def only_day(configs: Configs = None) -> None:
    """Only play the day, with the newest version that a demo has trained."""
    _run(("day",), None, _PROMPT, configs)


def _run(parts: tuple[str, ...], steps: int | None, prompt: str, configs: Path | None) -> None:
    # Imported here: Ray takes a second, and `tide demo --help` should not.
    from orchestrator.cli.demo.story import Story
    from orchestrator.cli.home import home_dir
    from orchestrator.cli.observe import configure_logging

    home = home_dir()
    configure_logging(home)
    Story(home=home, configs=configs or _shipped_configs(), steps=steps, prompt=prompt).tell(parts)


def _shipped_configs() -> Path:
    folder = Path(__file__).resolve().parents[3] / "cluster-configs"
    if folder.is_dir():
        return folder
    raise UserError(
        "the demo's YAML files are not beside this installation",
        code=ExitCode.INVALID,
        next_step="Run it in a checkout, or name the folder with --configs.",
    )
