"""The root of `tide`: finds a verb's module, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import CompletionItem, TyperGroup  # type: ignore[attr-defined]
from typer.exceptions import Abort, TyperException

from orchestrator.cli.help import SECTIONS, epilog, finish
from orchestrator.spec.errors import ExitCode, UserError

# Verb -> module with a Typer application named `app` (or as a colon says), and the line `tide --help` shows. Modules
# are imported when their verb is used: importing Ray or torch for `tide validate` would cost seconds.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("orchestrator.cli.demo", "Train, register and serve a small model on this machine."),
    "up": ("orchestrator.cli.up:up_app", "Start a control plane of your own, if none answers."),
    "down": ("orchestrator.cli.up:down_app", "Stop it; jobs that run go on."),
    "validate": ("orchestrator.cli.validate", "Check YAML files; every problem at once."),
    "schema": ("orchestrator.cli.schema", "Print the JSON Schema of a kind, for editors."),
    "plan": ("orchestrator.cli.plan", "Show what a job would take at every world size, or what a budget buys."),
    "submit": ("orchestrator.cli.submit", "Hand a training job to the control plane, or run it here."),
    "apply": ("orchestrator.cli.control.cluster:apply_app", "Make a Cluster the one that holds."),
    "ps": ("orchestrator.cli.control.jobs:ps_app", "List jobs, and why those that wait do so."),
    "describe": ("orchestrator.cli.control.jobs:describe_app", "Show everything about a job."),
    "why": ("orchestrator.cli.control.jobs:why_app", "Say why a job waits, and what would start it."),
    "logs": ("orchestrator.cli.control.jobs:logs_app", "Print or follow what a job's workers said."),
    "events": ("orchestrator.cli.control.jobs:events_app", "Print or follow what happened."),
    "exec": ("orchestrator.cli.control.inside:exec_app", "Run a command beside a worker of a running job."),
    "dump": ("orchestrator.cli.control.inside:dump_app", "Show where the ranks of a running job stand."),
    "cancel": ("orchestrator.cli.control.verbs:cancel_app", "End a job for good."),
    "pause": ("orchestrator.cli.control.verbs:pause_app", "Let a job give its devices back for a while."),
    "resume": ("orchestrator.cli.control.verbs:resume_app", "Let a paused job go on."),
    "study": ("orchestrator.cli.study.commands", "Search hyperparameters with a budget."),
    "resize": ("orchestrator.cli.resize", "Pin a running job's world size, or let it follow capacity again."),
    "checkpoint": ("orchestrator.cli.checkpoint", "List, verify, export and prune checkpoints."),
    "data": ("orchestrator.cli.data", "Pack, list and verify data sets."),
    "models": ("orchestrator.cli.models", "List, inspect, measure and prune registered models."),
    "merge": ("orchestrator.cli.merge", "Merge registered models of one architecture."),
    "quantize": ("orchestrator.cli.quantize", "Make a registered model smaller: 8 or 4 bits a weight."),
    "serve": ("orchestrator.cli.serve", "Serve a registered model behind OpenAI-compatible routes."),
    "keys": ("orchestrator.cli.keys", "Create, list and revoke API keys: of the control plane, or of endpoints."),
    "usage": ("orchestrator.cli.control.cluster:usage_app", "Show who used what, and what it was good for."),
    "queue": ("orchestrator.cli.control.cluster:queue_app", "Show queues, pools and leases; hold a queue."),
    "node": ("orchestrator.cli.control.nodes:node_app", "List nodes; hold one back from work, or let it go."),
    "server": ("orchestrator.cli.control.server", "Run the control plane; stop it, or ask how it is."),
    "simulate": ("orchestrator.cli.simulate", "Replay recorded capacity against a policy."),
    "cluster": ("orchestrator.cli.cluster", "Play recorded nodes on this machine while a job trains."),
    "window": ("orchestrator.cli.window", "List windows and what fits into them; rehearse lending."),
    "db": ("orchestrator.cli.db", "Set up, check and back up the control plane's database."),
    "completion": ("orchestrator.cli.completion", "Print what makes a shell complete verbs and names of jobs."),
    "doctor": ("orchestrator.cli.doctor", "Check this machine and say what to mend."),
}


class LazyGroup(TyperGroup):
    """A command group whose verbs are imported on use."""

    # Typer's own context and command types are private to it, hence Any.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            raise UserError(f"there is no verb {cmd_name!r}", code=ExitCode.USAGE, next_step=_advice(cmd_name))
        module, help_line = VERBS[cmd_name]
        room, _, name = module.partition(":")
        typer_app = getattr(importlib.import_module(room), name or "app")
        typer_app._add_completion = False  # 'tide completion' is the one way; no verb has two more options for it
        command = finish(typer.main.get_command(typer_app), cmd_name)
        command.name = cmd_name
        command.short_help = help_line
        command.help = command.help or help_line
        return command

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        # The inherited way imports every verb for its help: Ray and torch, between two strokes of a key.
        lines = {verb: line for verb, (_, line) in VERBS.items() if verb.startswith(incomplete)}
        return [CompletionItem(verb, help=line) for verb, line in lines.items()]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb, VERBS[verb][1]) for verb in verbs], col_max=max(map(len, VERBS)))


def _advice(verb: str) -> str:
    near = difflib.get_close_matches(verb, VERBS, n=1)
    return f"Did you mean 'tide {near[0]}'?" if near else "Run 'tide --help' for the list."


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tide {version('tideline')}")
        raise typer.Exit()


@app.callback()
def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_version),
) -> None:
    """Tideline: train and serve models on capacity that comes and goes.

    'tide VERB --help' has examples. Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 an invalid file or value, 4 unknown
    name, 5 not allowed, 6 unreachable, 7 conflict, 8 can never run as written; of a job that is followed: 100 failed,
    101 not finished, 103 cancelled, 130 detached by Ctrl-C.
    """
    if debug:
        os.environ["TIDE_DEBUG"] = "1"


def root_command() -> Any:
    """`tide` itself. Typer answers shells only where it also adds two options, for which 'tide completion' stands."""
    command = typer.main.get_command(app)
    command.params = [param for param in command.params if "completion" not in str(param.name)]
    command.epilog = epilog("")
    return command


def main(argv: list[str] | None = None) -> None:
    """Run `tide`; always exits."""
    command = root_command()
    try:
        code = command.main(args=argv, prog_name="tide", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except (Abort, KeyboardInterrupt):
        sys.exit(ExitCode.DETACHED)
    except TyperException as error:
        error.show() if hasattr(error, "show") else _say(f"error: {error.format_message()}")
        sys.exit(ExitCode.USAGE)
    except UserError as error:
        _say(f"error: {error}", error)
        sys.exit(error.code)
    except Exception as error:
        if isinstance(error, OSError) and _is_named(error.filename, sys.argv[1:] if argv is None else argv):
            _say(f"error: {error.filename}: {error.strerror}. Name another file or folder", error)
            sys.exit(ExitCode.INVALID)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        whose = "Free some, then run it again." if full else "This is a bug of ours; --debug shows the traceback."
        _say(f"error: {type(error).__name__}: {error}\n{whose}", error)
        sys.exit(ExitCode.BUG)


def _is_named(file: object, argv: list[str]) -> bool:
    """Whether a file is one that the user named, or lies below it: then it is not ours to mend."""
    places = {Path(word.partition("=")[2] if word.startswith("--") else word).absolute() for word in argv if word}
    return isinstance(file, str) and not places.isdisjoint((Path(file).absolute(), *Path(file).absolute().parents))


def _say(line: str, error: BaseException | None = None) -> None:
    if error and os.environ.get("TIDE_DEBUG"):
        traceback.print_exception(error)
    print(line, file=sys.stderr)  # noqa: T201
