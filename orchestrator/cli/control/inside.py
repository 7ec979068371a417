"""`tide exec` and `tide dump`: looking into a running job, beside its workers."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import threading
from functools import partial
from typing import Annotated, Any

import typer

from orchestrator.cli.control.connect import Job, connected, say
from orchestrator.cli.control.terminal import own_terminal, raw
from orchestrator.cli.output import Format, Output, emit
from orchestrator.client.client import Client
from orchestrator.client.places import Place
from orchestrator.spec.errors import ExitCode, UserError

exec_app, dump_app = typer.Typer(), typer.Typer()
_PIECE_BYTES = 1 << 16
Json = dict[str, Any]


@exec_app.command()
def exec_(
    job: Job,
    command: Annotated[list[str], typer.Argument(help="The command, after --.", show_default=False)],
    rank: Annotated[int | None, typer.Option(min=0, help="Beside this rank; default: rank 0.")] = None,
    node: Annotated[str | None, typer.Option(help="Beside the first rank of this node (a prefix will do).")] = None,
    no_input: Annotated[bool, typer.Option("--no-input", "-n", help="Give the command no input.")] = False,
    at_terminal: Annotated[
        bool, typer.Option("--tty", "-t", help="Let the command sit at this terminal: a shell, a debugger, top.")
    ] = False,
) -> None:
    """Run a command in the environment of a worker: its node, its environment variables, its folder.

    Input, output and errors pass through, and the exit code is the command's own (128 + the signal that ended it). With
    -t every key does, Ctrl-C too, and the command learns the terminal's size. The command, and all that it has started,
    ends when its rank leaves the node, and when this command ends. What `tide` itself finds wrong has its own
    exit codes: 4 no such job, rank or node, 5 not allowed, 6 no server, 7 the job does not run.
    """
    if at_terminal and no_input:
        raise UserError("-t and -n exclude each other: who sits at a terminal gives input", code=ExitCode.USAGE)
    terminal = own_terminal() if at_terminal else None
    with connected() as client:
        began = client.begin_exec(job, command, rank=rank, node=node, terminal=terminal)
        path = f"/jobs/{began['job']}/exec/{began['id']}"
        if terminal is not None and not began.get("terminal"):
            say(f"{began['job']} was started by an earlier version, which offers no terminal: this one passes lines")
        keys = raw(partial(_resize, client.place, path)) if began.get("terminal") else contextlib.nullcontext()
        try:
            with keys:
                threading.Thread(target=_feed, args=(client.place, path, no_input), daemon=True).start()
                code = _watch(client, path, began)
        except KeyboardInterrupt:
            with contextlib.suppress(UserError):
                client.delete(path)
            raise UserError("the command was ended", code=ExitCode.DETACHED) from None
    sys.stdout.flush()
    raise typer.Exit(code)


def _watch(client: Client, path: str, began: Json) -> int:
    """Pass the output on; the exit code."""
    for event in client.once(f"{path}/output"):
        said = json.loads(event.data)
        if event.kind == "output":
            file = sys.stdout if said["stream"] == "stdout" else sys.stderr
            file.buffer.write(base64.b64decode(said["data"]))
            file.buffer.flush()
        elif event.kind == "exit":
            if said["why"]:
                say(f"rank {began['rank']} on node {began['node'][:12]}: the command was ended: {said['why']}")
            return int(said["code"])
    problem = "the stream ended before the command did; it was ended with it"
    raise UserError(problem, code=ExitCode.UNREACHABLE, next_step="Did the server stop?")


def _feed(place: Place, path: str, no_input: bool) -> None:
    """Pass the input on, on a connection of its own; a command that has ended needs no more."""
    with contextlib.suppress(UserError), Client(place) as client:
        while data := b"" if no_input else os.read(0, _PIECE_BYTES):
            client.post(f"{path}/input", {"data": base64.b64encode(data).decode()})
        client.post(f"{path}/input", {"end": True})


def _resize(place: Place, path: str, size: Json) -> None:
    """Tell the command of another size; one that has ended has none."""
    with contextlib.suppress(UserError), Client(place) as client:
        client.post(f"{path}/input", {"size": size})


@dump_app.command()
def dump(
    job: Job,
    rank: Annotated[int | None, typer.Option(min=0, help="Only of this rank.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show where the threads of a running job's ranks stand, for one that hangs; nothing is stopped for it.

    The text names rank, node and step, and is kept in the run's folder, too. Values of variables are not shown. Exit
    codes: 4 no such job or rank, 6 no server, 7 the job does not run.
    """
    with connected() as client:
        found = client.stacks(job, rank)
    if output is Format.TABLE:
        sys.stdout.write(found["text"])  # as it is: brackets in it are no markup
    else:
        emit("Stacks", found, output, table="")
    if found["silent"]:
        say(f"no answer from {', '.join(node[:12] for node in found['silent'])}: gone, or the job has just left")
    if found["path"]:
        say(f"kept as {found['path']}")
