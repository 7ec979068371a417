"""`tide cancel`, `pause`, `resume`, `resize`: changing jobs."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.cli.control.connect import Job, connected
from orchestrator.cli.output import Format, Output, emit
from orchestrator.client.client import Client
from orchestrator.client.errors import ServerProblemError
from orchestrator.spec.errors import ExitCode, UserError

cancel_app, pause_app, resume_app = (typer.Typer() for _ in range(3))


def _asked(job: str, verb: str, output: Format, line: str, body: dict[str, Any] | None = None) -> None:
    with connected(start=True) as client:
        found = client.verb(job, verb, body)
    emit("Job", found, output, table=f"{found['id']} {line} ({found['state']})")


@cancel_app.command()
def cancel(job: Job, output: Output = Format.TABLE) -> None:
    """End a job for good; one that runs saves its state first. Of a schedule: start no more."""
    with connected(start=True) as client:
        try:
            found = client.verb(job, "cancel")
        except ServerProblemError as error:
            if error.code is not ExitCode.UNKNOWN or not _is_scheduled(client, job):
                raise
            (schedule,) = client.delete(f"/schedules/{job}")["items"]
            emit("Schedule", schedule, output, table=f"{job} starts no more; jobs that it started go on")
            return
    emit("Job", found, output, table=f"{found['id']} is cancelled ({found['state']})")


def _is_scheduled(client: Client, name: str) -> bool:
    return any(one["name"] == name for one in client.every("/schedules"))


@pause_app.command()
def pause(job: Job, output: Output = Format.TABLE) -> None:
    """Let a job save its state and give its devices back. Its budget and deadline clocks run on."""
    _asked(job, "pause", output, "is paused; deadline and budget clocks run on; 'tide resume' lets it go on")


@resume_app.command()
def resume(job: Job, output: Output = Format.TABLE) -> None:
    """Let a paused job wait for devices again."""
    _asked(job, "resume", output, "waits for devices again")


def resize_on_server(job: str, size: str, output: Format) -> None:
    """Pin a job's size, or let it follow capacity. Raises: UserError for a size that is none."""
    if size != "auto" and (not size.isdecimal() or int(size) < 1):
        raise UserError(f"size {size!r} must be 'auto' or a number of workers", where=job)
    workers = None if size == "auto" else int(size)
    line = "follows capacity" if workers is None else f"is pinned to {workers} workers"
    _asked(job, "resize", output, line, {"workers": workers})
