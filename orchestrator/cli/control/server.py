"""`tide server`: the control plane in the foreground; `stop` and `status` for the one that runs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.control.connect import connected, say, seconds
from orchestrator.cli.db import database_url
from orchestrator.cli.home import home_dir
from orchestrator.cli.observe import configure_logging
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.service.folders import JOBS_FOLDER, RAY_FOLDER
from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer(invoke_without_command=True)
_STOP_S = 30.0


@app.callback()
def server(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Also over TCP; beyond this machine with keys and TLS only.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key (PEM).")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="A proxy in front does TLS.")] = False,
    cluster: Annotated[
        Path | None,
        typer.Option(help="Apply it first. Default: the one that holds, else this machine."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(help="sqlite:///FILE or postgresql://...; default $TIDE_DATABASE or the state folder."),
    ] = None,
    keep_events: Annotated[str, typer.Option(metavar="DURATION", help="Events older than this are removed.")] = "90d",
    keep_logs: Annotated[
        str, typer.Option(metavar="DURATION", help="Logs of attempts that ended longer ago are removed.")
    ] = "30d",
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Virtual devices and timers as jobs: try queues without hardware.")
    ] = False,
) -> None:
    """Run the control plane in the foreground: a unix socket in the state folder, and what --listen names.

    It decides every second and whenever something was submitted. Jobs outlive it.
    """
    if ctx.invoked_subcommand is not None:
        return
    from orchestrator.api.serve import ServerOptions, run_server

    home = home_dir()
    options = ServerOptions(
        home=home,
        database=database or database_url(),
        listen=listen,
        certificate=tls_cert,
        private_key=tls_key,
        plain_http=plain_http,
        cluster=cluster,
        rehearse=rehearse,
        keep_events_s=seconds(keep_events, "--keep-events"),
        keep_logs_s=seconds(keep_logs, "--keep-logs"),
    )
    configure_logging(home)
    run_server(options, say=say)


@app.command()
def stop(
    ray: Annotated[bool, typer.Option("--ray", help="Also end the local Ray that it started, if no job runs.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """End the server of this state folder; jobs that run go on, and so does a local Ray.

    With --ray nothing is left; exit 7 while jobs run, and nothing is ended then.
    """
    from orchestrator.adapters.ray_cluster.host import is_hosted, stop_host
    from orchestrator.api.serve import read_lock

    home = home_dir()
    hosted = is_hosted(home / RAY_FOLDER)
    if ray:
        _require_no_jobs(home)
    found = read_lock(home)
    if found and "pid" in found:
        _stop_server(home, found["pid"])
        said = f"the server (pid {found['pid']}) has ended\n"
    elif ray and hosted:
        found, said = {"pid": None}, ""
    else:
        raise UserError("no server runs on this state folder", code=ExitCode.UNREACHABLE, where=str(home))
    if ray:
        stop_host(home / RAY_FOLDER)
        said += "its local Ray has ended" if hosted else ""
    elif hosted:
        said += "its local Ray goes on: 'tide server stop --ray' ends it when no job runs"
    emit("StoppedServer", {"pid": found["pid"], "ray": hosted and not ray}, output, table=said.strip())


def _require_no_jobs(home: Path) -> None:
    from orchestrator.adapters.jobs.runner import living_jobs

    running = living_jobs(home / JOBS_FOLDER)
    if running:
        problem = f"{', '.join(running[:5])} would lose {'its' if len(running) == 1 else 'their'} Ray"
        next_step = "Pause or cancel what runs, or leave Ray running: 'tide server stop'"
        raise UserError(problem, code=ExitCode.CONFLICT, where=str(home), next_step=next_step)


def _stop_server(home: Path, pid: int) -> None:
    from orchestrator.api.serve import read_lock

    os.kill(pid, signal.SIGTERM)
    until_s = time.monotonic() + _STOP_S
    while read_lock(home) is not None:
        if time.monotonic() > until_s:
            problem = f"the server (pid {pid}) has not ended after {_STOP_S:g} s"
            raise UserError(problem, code=ExitCode.NOT_FINISHED, next_step="Look into its log")
        time.sleep(0.05)


@app.command()
def status(output: Output = Format.TABLE) -> None:
    """Show whether the server answers, whether it decides, and since when it has not."""
    with connected() as client:
        found: dict[str, Any] = {"server": str(client.place), **client.readiness()}
    rows = [(key.replace("_", " "), value) for key, value in found.items() if value not in (None, "")]
    emit("ServerStatus", found, output, table=make_table(("", ""), rows))
    if found["status"] != "ok":
        raise typer.Exit(ExitCode.UNREACHABLE)
