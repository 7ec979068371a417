"""`tide resize`: pin a run's size, or let it follow capacity again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit
from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer()

_OVER = ("succeeded", "failed")


@app.command()
def resize(
    job: Annotated[str, typer.Argument(help="Name of a run.", show_default=False)],
    size: Annotated[str, typer.Argument(help="Number of workers, or 'auto'.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Pin a job's number of workers until `tide resize JOB auto`; a running job changes over without losing a step."""
    if not _runs_in_a_process(job):
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


def _runs_in_a_process(job: str) -> bool:
    """Whether `tide submit --in-process` made a run of that name which has not ended, and no server knows the job."""
    try:
        record: dict[str, Any] = json.loads((home_dir() / "runs" / job / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return record.get("status") not in _OVER and not _known_to_server(job)


def _known_to_server(job: str) -> bool:
    from orchestrator.cli.control.connect import answering

    with answering() as client:
        if client is None:
            return False
        try:
            return client.job(job)["state"] not in (*_OVER, "cancelled")
        except UserError:
            return False


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
