"""`tide resize`: pin a run's size, or let it follow capacity again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import require_name

app = typer.Typer()

_OVER = ("succeeded", "failed")


@app.command()
def resize(
    job: Annotated[str, typer.Argument(help="Name of a run.", show_default=False)],
    size: Annotated[str, typer.Argument(help="Number of workers, or 'auto'.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Pin a job's number of workers until `tide resize JOB auto`; a running job changes over without losing a step."""
    if _is_the_servers(require_name(job, "job")):
        from orchestrator.cli.control.verbs import resize_on_server

        resize_on_server(job, size, output)
        return
    from orchestrator.adapters.ray_train.lease import FileLease, Lease

    folder = home_dir() / "runs" / job
    _check_running(folder, job)
    workers = _parse(size, folder, job)
    FileLease(folder).write(Lease(workers=workers))
    what = "follows capacity" if workers is None else f"is pinned to {workers} workers"
    emit("Lease", {"run": job, "workers": workers}, output, table=f"{job} {what}")


def _is_the_servers(job: str) -> bool:
    """Whether the control plane has to do with the job, and not a run that `tide submit --in-process` made here."""
    from orchestrator.cli.control.connect import answering

    home = home_dir()
    run_here = (home / "runs" / job / "record.json").is_file()
    with answering() as client:
        if client is None:
            return not run_here and ((home / "tide.db").exists() or not _is_local(home))
        try:
            return client.job(job)["state"] not in (*_OVER, "cancelled") or not run_here
        except UserError:
            return not run_here


def _is_local(home: Path) -> bool:
    """Whether this user talks to a server of his own."""
    from orchestrator.client.places import find_place

    return find_place(home).local and "TIDE_DATABASE" not in os.environ


def _check_running(folder: Path, job: str) -> None:
    try:
        record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(path.parent.name for path in folder.parent.glob("*/record.json"))
        raise UserError(
            f"there is no run {job!r}",
            code=ExitCode.UNKNOWN,
            next_step=f"Known runs: {', '.join(known)}" if known else "Submit one: tide submit FILE",
        ) from None
    if record["status"] in _OVER:
        raise UserError(f"the run has {record['status']} and holds no workers", code=ExitCode.CONFLICT, where=job)


def _parse(size: str, folder: Path, job: str) -> int | None:
    if size == "auto":
        return None
    workers = json.loads((folder / "job.json").read_text(encoding="utf-8"))["spec"]["workers"]
    low, high = workers["min"], workers["max"]
    if not size.isdecimal() or not low <= int(size) <= high:
        raise UserError(f"size {size!r} must be 'auto' or {low}..{high}, the job's workers.min..max", where=job)
    return int(size)
