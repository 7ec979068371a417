"""A client for a verb: finds the server, starts this user's own where a verb changes state and none answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.home import home_dir
from orchestrator.client.client import Client
from orchestrator.client.places import find_place
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.quantities import parse_duration

_START_S = 90.0
COMPLETE_S = 1.0
"""A shell that completes a name waits no longer for each answer."""
_PROGRAM = "from orchestrator.cli.main import main; main()"
SERVER = ("server",)
"""What a server of one's own is started with."""


def say(line: str) -> None:
    """Tell a person, on stderr."""
    typer.echo(line, err=True)


def seconds(text: str, option: str) -> float:
    """A duration that an option was given. Raises: UserError for one that is none."""
    try:
        return parse_duration(text)
    except BadValueError as error:
        raise UserError(str(error), where=option) from None


@contextlib.contextmanager
def connected(*, start: bool = False) -> Iterator[Client]:
    """A client of the server that this user talks to; with `start`, a server of his own is started if none answers.

    Raises: UserError (unreachable).
    """
    home = home_dir()
    with Client(find_place(home)) as client:
        if client.place.local and start and not client.answers():
            start_server(home, client)
        yield client


def answering() -> contextlib.AbstractContextManager[Client | None]:
    """A client if a server answers, else None: for verbs that can do without."""
    return _answering()


@contextlib.contextmanager
def _answering() -> Iterator[Client | None]:
    with Client(find_place(home_dir())) as client:
        yield client if client.answers() else None


def start_server(home: Path, client: Client) -> None:
    """Start a server that outlives this command, and wait until it decides. Raises: UserError with what it said."""
    log = home / "logs" / "server.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(home / "start.lock", "w", opener=_private) as lock:
        # Two commands at once start one server.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.answers():
            return
        size = log.stat().st_size if log.exists() else 0
        with open(log, "ab", opener=_private) as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *SERVER],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=home,
            )
        say(f"no server answers: starting one (pid {process.pid}, log {log}); 'tide server stop' ends it")
        _wait(process, client, log, size)


def _wait(process: subprocess.Popen[bytes], client: Client, log: Path, size: int) -> None:
    reason, until_s = "it does not listen yet", time.monotonic() + _START_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            said = log.read_bytes()[size:].decode("utf-8", "replace").strip().splitlines()
            problem = f"the server ended at once: {said[-1] if said else 'it said nothing'}"
            raise UserError(problem, code=ExitCode.UNREACHABLE, where=str(log), next_step="Run 'tide server' to see it")
        if client.answers():
            found = client.readiness()
            if found["status"] == "ok":
                process.returncode = 0  # it outlives this command: nobody waits for its end
                return
            reason = found["reason"]
        time.sleep(0.1)
    problem = f"the server was started and is not ready after {_START_S:g} s: {reason}"
    raise UserError(problem, code=ExitCode.UNREACHABLE, where=str(log), next_step="Look into its log")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def job_names(incomplete: str) -> list[str]:
    """Names of jobs, for the shell to complete; nothing where no server answers at once."""
    try:
        with Client(find_place(home_dir()), timeout_s=COMPLETE_S) as client:
            found = client.get("/jobs", limit=200, prefix=incomplete or None)["items"]
    except UserError:
        return []
    return [str(one["id"]) for one in found]


Job = Annotated[
    str,
    typer.Argument(help="NAME (its latest run) or NAME.N.", show_default=False, autocompletion=job_names),
]
