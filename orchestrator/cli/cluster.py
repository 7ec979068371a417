"""`tide cluster`: what concerns the nodes themselves. `replay` plays a recording of them while a job trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.spec import TrainJob, load_one
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.quantities import parse_duration

if TYPE_CHECKING:
    from orchestrator.adapters.replay.session import Replayed

app = typer.Typer(no_args_is_help=True)

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}  # relative, at any step: only the order of sums may differ


@app.callback()
def cluster() -> None:
    """What concerns the nodes themselves."""


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(metavar="EVENTS.csv", help="t_ms,event,node.", show_default=False)],
    job_file: Annotated[Path, typer.Option("--job", metavar="JOB.yaml", help="The TrainJob to run meanwhile.")],
    share: Annotated[int, typer.Option("--share", min=1, help="Play every so many-th node.")] = 8,
    speed: Annotated[float, typer.Option("--speed", min=1.0, max=1000.0, help="So many times as fast.")] = 8.0,
    lasting: Annotated[str, typer.Option("--for", metavar="DURATION", help="Of the recording, from its start.")] = "2h",
    notice: Annotated[str, typer.Option("--notice", metavar="DURATION", help="Warning, in its time; 0s: none.")] = "2m",
    compare: Annotated[bool, typer.Option("--compare/--no-compare", help="Then train the same at one size.")] = True,
    output: Output = Format.TABLE,
) -> None:
    """Play recorded nodes on this machine while a job trains: recovery times, steps lost, equality of the loss.

    Exit codes: 0 done, 100 the job failed or its loss is not that of the fixed size, 130 stopped by Ctrl-C.
    """
    seconds, notice_s = _seconds("--for", lasting, positive=True), _seconds("--notice", notice)
    job = load_one(job_file, TrainJob)
    from orchestrator.adapters.replay.recording import load_node_events, share_of

    events = share_of(load_node_events(recording), share=share, seconds=seconds)
    if not events:
        raise UserError(f"{recording}: no event of every {share}th node in the first {lasting}", code=ExitCode.INVALID)
    from orchestrator.adapters.replay.session import Replaying

    done = _play(job, Replaying(events=events, seconds=seconds, speed=speed, notice_s=notice_s, compare=compare))
    emit("ClusterReplay", document(done, events=len(events), speed=speed), output, table=_table(done))
    _check(done, job)


def _play(job: TrainJob, how: Any) -> Replayed:
    """The replay on this terminal: earlier runs put aside, Ctrl-C as a wish to stop."""
    from rich.console import Console

    from orchestrator.adapters.ray_train.signals import StopSignals
    from orchestrator.adapters.replay.session import FIXED_SUFFIX, check, replay
    from orchestrator.cli.live import LiveLine
    from orchestrator.cli.observe import configure_logging
    from orchestrator.cli.submit import put_aside

    check(job, how)  # before anything is put aside for a replay that cannot be
    home, console = home_dir(), Console(stderr=True)
    configure_logging(home)
    for name in (job.metadata.name, job.metadata.name + FIXED_SUFFIX):
        if kept := put_aside(home, name):
            console.print(f"the earlier run is kept as {kept}", highlight=False)

    def say(line: str) -> None:
        console.print(line, highlight=False)

    say(f"{len(how.events)} events in {how.seconds / how.speed:.0f} s, {how.speed:g} times as fast as recorded")
    with StopSignals() as signals, LiveLine(console, job.spec.steps) as live:
        return replay(job, home, how, signals=signals, on_event=live, say=say)


def document(done: Replayed, *, events: int, speed: float) -> Mapping[str, Any]:
    """The result for programs; times in seconds as lived, not as recorded."""
    curve = done.curve
    return {
        "run": done.run.run_id,
        "status": done.run.status.value,
        "steps": done.run.steps,
        "events": events,
        "speed": speed,
        "played": done.played,
        "recoveries": [
            {
                "attempt": recovery.attempt,
                "cause": recovery.cause.value,
                "from_workers": recovery.from_size,
                "to_workers": recovery.to_size,
                "recovery_s": round(recovery.recovery_s, 3),
                "steps_lost": recovery.steps_lost,
            }
            for recovery in done.recoveries
        ],
        "steps_lost": done.steps_lost,
        "training_goodput": done.training_goodput,
        "waiting_s": round(done.waiting_s, 3),
        "node_handling_s": round(done.busy_s, 3),
        "loss_max_rel_diff": None if curve is None else curve.max_rel_diff,
        "steps_compared": None if curve is None else curve.steps,
        "steps_with_other_samples": None if curve is None else curve.samples_differ,
        "record": str(done.run.run_dir / "record.json"),
    }


def _table(done: Replayed) -> Any:
    rows: list[tuple[object, ...]] = [
        (r.attempt, r.cause.value, f"{r.from_size} → {r.to_size}", f"{r.recovery_s:.1f} s", r.steps_lost)
        for r in done.recoveries
    ]
    played = ", ".join(f"{count} {what}" for what, count in sorted(done.played.items())) or "nothing"
    goodput = "-" if done.training_goodput is None else f"{done.training_goodput:.1%}"
    rows.append(("", f"{done.run.steps} steps, goodput {goodput}; nodes: {played}", "", "", done.steps_lost))
    if done.curve is not None:
        same = f"{done.curve.steps} steps against one size: loss within {done.curve.max_rel_diff:.1e}"
        rows.append(("", f"{same}, {done.curve.samples_differ} with other samples", "", "", ""))
    return make_table(("attempt", "cause", "workers", "recovery", "steps lost"), rows, right=("recovery", "steps lost"))


def _check(done: Replayed, job: TrainJob) -> None:
    """Raises: UserError when the job failed, was stopped, or did not do what the fixed size does."""
    from orchestrator.adapters.ray_train.events import Status

    run = done.run
    if run.status is Status.FAILED:
        raise UserError(f"the job failed: {run.detail}", code=ExitCode.JOB_FAILED, where=run.run_id)
    if done.interrupted:
        raise UserError(
            f"stopped; its {run.steps} steps are kept in {run.run_dir}", code=ExitCode.DETACHED, where=run.run_id
        )
    if done.curve is None:
        return
    most = TOLERANCE[job.spec.deepspeed.precision]
    if done.curve.max_rel_diff > most or done.curve.samples_differ:
        raise UserError(
            f"the loss is up to {done.curve.max_rel_diff:.1e} away from that of the fixed size (at most {most:g} is "
            f"the order of sums), and {done.curve.samples_differ} steps had other samples",
            code=ExitCode.JOB_FAILED,
            where=run.run_id,
            next_step=f"Compare the events in {run.run_dir} and {run.run_dir}-fixed.",
        )


def _seconds(option: str, text: str, *, positive: bool = False) -> float:
    try:
        return parse_duration(text, positive=positive)
    except BadValueError as error:
        raise UserError(f"{error.what}; {error.want}", where=option, next_step=error.next_step) from None
