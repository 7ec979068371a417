"""`tide submit`: hand a training job to the control plane, or (`--in-process`) run it here and register its model."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.home import home_dir
from orchestrator.cli.observe import configure_logging
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec import Endpoint, Study, TrainJob, load_one_of
from orchestrator.spec.errors import ExitCode, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.adapters.ray_train.run import RunResult
    from orchestrator.registry import Version

app = typer.Typer()

# Keys that only a control plane can keep its word on; alone they would be silence.
_NEEDS_SERVER = ("window", "deadline", "after", "schedule", "budget", "notify")


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="A YAML file with one TrainJob, Study or Endpoint.", show_default=False)],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end, and exit as it ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be decided.")] = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key again submits nothing twice.")
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Run it in this process, without a server.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="With --in-process: start again; the earlier run is put aside.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Submit a training job, a study or an endpoint; it runs on without this command. A server of yours is started if
    none answers. An endpoint holds leases like a job, lends devices where the Cluster says so, ends by 'tide cancel'.

    Exit codes with --wait: 0 done, 100 failed, 103 cancelled, 130 detached by Ctrl-C (the job goes on). With
    --in-process the job is this command: 100 failed or its gate was not reached, 130 stopped with its state saved.
    """
    job = _load(file)
    if isinstance(job, Endpoint):
        _refuse({"--wait": wait, "--in-process": in_process, "--fresh": fresh}, "an endpoint runs under a server")
        job = with_whole_paths(job, file.resolve().parent)
    elif isinstance(job, Study):
        _refuse({"--in-process": in_process, "--fresh": fresh}, "'tide study run' runs a study in the foreground")
    elif in_process:
        _refuse_what_has_no_effect(job, file)
        if dry_run or key is not None:
            raise UserError("--dry-run and --idempotency-key ask a server", code=ExitCode.USAGE, where="--in-process")
        _run_here(job, file, fresh, output)
        return
    if fresh:
        raise UserError("--fresh goes with --in-process", code=ExitCode.USAGE, next_step="Submit it under a new name")
    from orchestrator.cli.control.submitting import show_decision, submit_to_server

    if dry_run:
        show_decision(job, output)
    else:
        submit_to_server(job, output, wait=wait, key=key)


def _load(file: Path) -> TrainJob | Endpoint | Study:
    found = load_one_of(file, (TrainJob, Endpoint, Study), now=dt.datetime.now(dt.UTC))
    assert isinstance(found, TrainJob | Endpoint | Study), "only these are asked for"
    return found


def _refuse(options: dict[str, bool], because: str) -> None:
    given = [name for name, said in options.items() if said]
    if given:
        raise UserError(f"{', '.join(given)}: {because}", code=ExitCode.USAGE, next_step="Submit it without")


def with_whole_paths(endpoint: Endpoint, base: Path) -> Endpoint:
    """Files that it names, by their whole paths: who serves it stands somewhere else."""
    spec = endpoint.spec
    tls = spec.listen.tls
    if tls is not None:
        tls = tls.model_copy(update={"cert": str(base / tls.cert), "key": str(base / tls.key)})
    update = {
        **({"keys": str(base / spec.keys)} if spec.keys is not None else {}),
        **({"listen": spec.listen.model_copy(update={"tls": tls})} if tls is not None else {}),
    }
    return endpoint.model_copy(update={"spec": spec.model_copy(update=update)}) if update else endpoint


def _run_here(job: TrainJob, file: Path, fresh: bool, output: Format) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    home = home_dir()
    configure_logging(home)
    if fresh and (kept := put_aside(home, job.metadata.name)):
        console.print(f"the earlier run is kept as {kept}", highlight=False)
    result = train(job, home, console)
    version = finish(job, result, home, file)
    emit("TrainResult", _document(result, version), output, table=_table(result, version))


def train(job: TrainJob, home: Path, console: Console) -> RunResult:
    """Run `job` on a local Ray of its own, with the live line on `console`; Ctrl-C stops it in order."""
    from orchestrator.adapters.ray_cluster import LocalCluster
    from orchestrator.adapters.ray_train.run import RunOptions, run_train_job
    from orchestrator.adapters.ray_train.signals import StopSignals
    from orchestrator.cli.live import LiveLine
    from orchestrator.cli.tier import tier_from_environment

    options = RunOptions(tier=tier_from_environment())
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        stack.enter_context(LocalCluster((local_node(job),)))
        live = stack.enter_context(LiveLine(console, job.spec.steps))
        return run_train_job(job, home, on_event=live, options=replace(options, wants_stop=signals))


def local_node(job: TrainJob) -> Any:
    """A local node with this machine's cores, and room for the job's smallest size even where there are fewer.

    Raises: UserError (never) when the job needs devices that this machine does not have.
    """
    from orchestrator.adapters.ray_cluster import NodeSize, num_local_gpus

    workers = job.spec.workers
    has, needs = num_local_gpus(), workers.resources.GPU * workers.min
    if needs > has:
        raise UserError(
            f"spec.workers.min: {workers.min} workers need {needs:g} GPUs, and this machine has {has}",
            code=ExitCode.NEVER,
            next_step="Lower workers.min or resources.GPU",
        )
    cores = float(os.cpu_count() or 1)
    return NodeSize(
        num_cpus=max(workers.resources.CPU * workers.min, min(workers.resources.CPU * workers.max, cores)),
        num_gpus=has,
        resources={name: amount * workers.max for name, amount in workers.resources.custom.items()},
    )


def finish(job: TrainJob, result: RunResult, home: Path, file: Path) -> Version | None:
    """Turn the end of a run into a registered version or an error with the right exit code.

    Raises: UserError: job_failed for a failure or a gate that was not reached, detached after Ctrl-C.
    """
    from orchestrator.adapters.ray_train.events import Status
    from orchestrator.adapters.ray_train.register import register

    again = f"tide submit {file} --in-process"
    match result.status:
        case Status.SUCCEEDED:
            return register(job, result, home)
        case Status.PAUSED:
            raise UserError(
                f"stopped; {_kept(result)}",
                code=ExitCode.DETACHED,
                where=result.run_id,
                next_step=f"Go on with: {again}",
            )
        case _:
            raise UserError(
                f"the job failed: {result.detail}; {_kept(result)}",
                code=ExitCode.JOB_FAILED,
                where=result.run_id,
                next_step=f"Output of its ranks: {result.run_dir / 'logs'}. Try again with: {again}",
            )


def _kept(result: RunResult) -> str:
    if result.checkpoint_step is None:
        return "no step was saved"
    return f"the state after step {result.checkpoint_step} is kept"


def put_aside(home: Path, name: str) -> Path | None:
    """Rename the folders of an earlier run of this name, its checkpoints included; the new place, None if there is
    nothing to put aside. Checkpoints in a storage that the job names itself are left alone."""
    run_dir, checkpoints = home / "runs" / name, home / "checkpoints" / name
    if not run_dir.exists() and not checkpoints.exists():
        return None
    number = next(n for n in range(1, sys.maxsize) if not (home / "runs" / f"{name}~{n}").exists())
    aside = home / "runs" / f"{name}~{number}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    if run_dir.exists():
        run_dir.rename(aside)
    aside.mkdir(exist_ok=True)
    if checkpoints.exists():
        checkpoints.rename(aside / "checkpoints")
    return aside


def _refuse_what_has_no_effect(job: TrainJob, file: Path) -> None:
    spec = job.spec
    named = [f"spec.{key}" for key in _NEEDS_SERVER if getattr(spec, key)]
    if named:
        raise UserError(
            f"{', '.join(named)}: a job run by this command alone cannot follow {'it' if len(named) == 1 else 'them'}",
            where=str(file),
            next_step="Remove the keys, or submit it without --in-process",
        )


def _document(result: RunResult, version: Version | None) -> dict[str, Any]:
    return {
        "run": result.run_id,
        "status": result.status,
        "steps": result.steps,
        "loss": result.loss,
        "metrics": result.metrics,
        "model_dir": str(result.model_dir),
        "registered": version.ref if version else None,
        "record": str(result.run_dir / "record.json"),
    }


def _table(result: RunResult, version: Version | None) -> Any:
    rows = [["steps", f"{result.steps:,}"], *([name, f"{value:.4f}"] for name, value in sorted(result.metrics.items()))]
    rows += [["registered", version.ref]] if version else []
    rows += [["model", str(result.model_dir)], ["record", str(result.run_dir / "record.json")]]
    return make_table([result.run_id, ""], rows)
