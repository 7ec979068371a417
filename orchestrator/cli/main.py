"""The root of `tide`: finds a verb's module, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click
import typer
from typer.core import TyperGroup

from orchestrator.spec.errors import ExitCode, UserError

# Verb -> module with a Typer application named `app`, and the line `tide --help` shows. Modules are imported when
# their verb is used: importing Ray or torch for `tide validate` would cost seconds.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("orchestrator.cli.demo", "Train, register and serve a small model on this machine."),
    "validate": ("orchestrator.cli.validate", "Check YAML files; every problem at once."),
    "schema": ("orchestrator.cli.schema", "Print the JSON Schema of a kind, for editors."),
    "plan": ("orchestrator.cli.plan", "Show what a job would do at every world size."),
    "submit": ("orchestrator.cli.submit", "Run a training job."),
    "resize": ("orchestrator.cli.resize", "Pin a running job's world size, or let it follow capacity again."),
    "checkpoint": ("orchestrator.cli.checkpoint", "List, verify, export and prune checkpoints."),
    "data": ("orchestrator.cli.data", "Pack, list and verify data sets."),
    "models": ("orchestrator.cli.models", "List and inspect registered models."),
    "serve": ("orchestrator.cli.serve", "Serve a registered model behind OpenAI-compatible routes."),
    "simulate": ("orchestrator.cli.simulate", "Replay recorded capacity against a policy."),
    "doctor": ("orchestrator.cli.doctor", "Check this machine and say what to mend."),
}


class LazyGroup(TyperGroup):
    """A command group whose verbs are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, help_line = VERBS[cmd_name]
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name = cmd_name
        command.short_help = help_line
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=True, rich_markup_mode=None)


@app.callback()
def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Tideline: train and serve models on capacity that comes and goes."""
    if debug:
        os.environ["TIDE_DEBUG"] = "1"


def main(argv: list[str] | None = None) -> None:
    """Run `tide`; always exits."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=argv, prog_name="tide", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except click.exceptions.Abort:
        sys.exit(ExitCode.DETACHED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except UserError as error:
        _show(error, f"error: {error}")
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.DETACHED)
    except Exception as error:
        _show(error, f"error: {type(error).__name__}: {error}\nThis is a bug of ours; --debug shows the traceback.")
        sys.exit(ExitCode.BUG)


def _show(error: BaseException, line: str) -> None:
    if os.environ.get("TIDE_DEBUG"):
        traceback.print_exception(error)
    print(line, file=sys.stderr)  # noqa: T201
