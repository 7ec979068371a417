"""Follow a job: what is shown on the way, and the exit code that its end has.

The end of a stream proves nothing: the job's own state is asked for, and decides.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.cli.control.connect import say
from orchestrator.cli.output import Format
from orchestrator.client.client import Client
from orchestrator.client.sse import ServerEvent
from orchestrator.spec.errors import ExitCode, UserError

Json = dict[str, Any]
Show = Callable[[ServerEvent], None]
_CODES = {"succeeded": ExitCode.OK, "failed": ExitCode.JOB_FAILED, "cancelled": ExitCode.CANCELLED}


@contextlib.contextmanager
def detaching(what: str) -> Iterator[None]:
    """Ctrl-C leaves what is followed alone, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(f"detached; {what}", code=ExitCode.DETACHED) from None


def follow_job(client: Client, name: str, path: str, show: Show, **params: Any) -> ExitCode:
    """Show a stream until the job has ended; what its end is as an exit code."""
    with detaching(f"job {name} goes on: 'tide describe {name}' shows it, 'tide cancel {name}' ends it"):
        while True:
            for event in client.follow(path, **params):
                show(event)
                if event.kind == "attempt-end":
                    return ExitCode.OK
            state = client.job(name)["state"]
            if state in _CODES:
                return _CODES[state]


def require_success(client: Client, job: str, code: ExitCode) -> None:
    """Raises: UserError with the exit code, unless the job has succeeded."""
    if code is ExitCode.OK:
        return
    found = client.job(job)
    raise UserError(
        f"job {job} has {'been cancelled' if found['state'] == 'cancelled' else found['state']}"
        + (f": {found['detail']}" if found["detail"] else ""),
        code=code,
        next_step=f"'tide logs {job}' shows what it said, 'tide describe {job}' every attempt",
    )


def event_line(event: Json) -> str:
    """An event on one line, for people."""
    about = event["job"] or ""
    if event["attempt"]:
        about += f"#{event['attempt']}"
    data = " ".join(f"{key}={value}" for key, value in event["data"].items() if value not in (None, ""))
    who = "" if event["actor"] == "system" else f" by {event['actor']}"
    return f"{event['at'][:19]} {event['kind']:<16} {about}{who} {data}".rstrip()


def show_event(output: Format) -> Show:
    """Events as lines for people, or one JSON object a line."""

    def show(event: ServerEvent) -> None:
        if event.kind == "end":
            return
        data = json.loads(event.data)
        sys.stdout.write((event_line(data) if output is Format.TABLE else json.dumps(data)) + "\n")
        sys.stdout.flush()

    return show


def show_log(event: ServerEvent) -> None:
    """The text of a log as it is; everything else on stderr."""
    data = json.loads(event.data)
    if event.kind == "log":
        sys.stdout.write(data["text"])
        sys.stdout.flush()
    elif event.kind == "gone":
        say(data["detail"])
