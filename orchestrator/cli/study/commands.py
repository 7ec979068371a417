"""The verbs of `tide study`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.foreground import refuse_without_effect
from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit, make_table
from orchestrator.cli.study.here import STOP_FILE, drive, has_begun, put_aside, say
from orchestrator.cli.study.rates import ClusterFile, PoolName, Price, Watts, kept_rates, rates_of
from orchestrator.cli.study.tables import config_text, short_names, study_table
from orchestrator.spec import Study, load_one
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import require_name

if TYPE_CHECKING:
    from orchestrator.study.record import StudyRecord, TrialRecord

app = typer.Typer(no_args_is_help=True, help="Search hyperparameters with a budget.")

File = Annotated[Path, typer.Argument(help="A YAML file with one Study.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]


@app.command()
def run(
    file: File,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again; the earlier study is put aside.")] = False,
    cluster: ClusterFile = None,
    pool: PoolName = None,
    usd: Price = None,
    watts: Watts = None,
    output: Output = Format.TABLE,
) -> None:
    """Run a study on this machine, follow it, and write its report.

    Exit codes: 0 the search is over, 7 a study of this name is there already, 130 stopped with its state saved.
    """
    study = load_one(file, Study)
    refuse_without_effect(study, file)
    home = home_dir()
    folder = home / "studies" / study.metadata.name
    if not fresh and has_begun(folder):
        raise UserError(
            "there is a study of this name already",
            code=ExitCode.CONFLICT,
            where=study.metadata.name,
            next_step=f"Go on with it: tide study resume {study.metadata.name}; or start again with --fresh",
        )
    if fresh and has_begun(folder):
        say(f"the earlier study is kept as {put_aside(folder)}")
    drive(study, home, rates_of(cluster, pool, usd, watts), output)


@app.command()
def resume(
    name: Name,
    file: Annotated[Path | None, typer.Option("--file", help="The study's file with a new budget or limits.")] = None,
    cluster: ClusterFile = None,
    pool: PoolName = None,
    usd: Price = None,
    watts: Watts = None,
    output: Output = Format.TABLE,
) -> None:
    """Go on with a study that was stopped, or whose driver died: no finished trial is lost, none is run twice."""
    home = home_dir()
    folder = _folder(name)
    before = _load(folder)[0]
    study = load_one(file, Study) if file is not None else before
    if study.metadata.name != name:
        raise UserError(f"the file's study is {study.metadata.name!r}, not {name!r}", where=str(file))
    if file is not None:
        refuse_without_effect(study, file)
    drive(study, home, rates_of(cluster, pool, usd, watts), output)


@app.command()
def status(name: Name, output: Output = Format.TABLE) -> None:
    """Show every trial of a study, running or not."""
    values = _values(name)
    emit("StudyStatus", values, output, table=study_table(values))


@app.command()
def stop(
    name: Name,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0.0, metavar="SECONDS", help="How long to wait until it has stopped.")
    ] = 120.0,
) -> None:
    """End a running study in order: its trials save their state, and it can go on later. Exit 101: not stopped yet."""
    from orchestrator.study.journal import is_driven

    folder = _folder(name)
    _load(folder)
    if not is_driven(folder):
        raise UserError("nobody runs it", code=ExitCode.CONFLICT, where=name)
    (folder / STOP_FILE).touch()
    deadline_s = time.monotonic() + wait_s
    while is_driven(folder):
        if time.monotonic() > deadline_s:
            raise UserError(f"still running after {wait_s:.0f} s", code=ExitCode.NOT_FINISHED, where=name)
        time.sleep(0.1)
    say(f"stopped; go on with: tide study resume {name}")


@app.command()
def best(name: Name, output: Output = Format.TABLE) -> None:
    """Show the best trial: its values, its results over seeds, and what it cost. Exit 101: there is none yet."""
    from orchestrator.study.summary import best_values

    study, record, folder = _load(_folder(name))
    trial = _best(study, record)
    values = {"study": name, **best_values(trial, study, record, kept_rates(folder))}
    results = values["results"]
    rows = [[key, f"{value}"] for key, value in trial.config.items()]
    rows += [
        [study.spec.metric, f"{values['value']:.5g} after {trial.measured_at} of {study.spec.template.steps} steps"]
    ]
    if len(results) > 1:
        each = ", ".join(f"{result:.5g}" for result in results)
        rows += [["over seeds", f"{values['mean']:.5g} (mean of {len(results)}: {each})"]]
    rows += [["device-hours", f"{values['device_hours']:.4g}"]]
    rows += [["USD", f"{values['usd']:.4g}"]] if values["usd"] is not None else []
    emit("StudyBest", values, output, table=make_table([trial.trial, ""], rows))


@app.command()
def compare(
    name: Name,
    trials: Annotated[list[str] | None, typer.Argument(help="Trials; the best few by default.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Compare trials with the first of them, and say whether the difference is more than luck."""
    from orchestrator.study.standing import ranked
    from orchestrator.study.summary import comparison

    study, record, _ = _load(_folder(name))
    chosen = trials or [one.trial for one in ranked(record, study.spec.metric, study.spec.mode)[:5]]
    if unknown := [one for one in chosen if one not in record.trials]:
        known = ", ".join(record.trials) or "none yet"
        raise UserError(f"there is no trial {unknown[0]!r}; there are {known}", code=ExitCode.UNKNOWN, where=name)
    if not chosen:
        raise UserError("no trial has reported yet", code=ExitCode.NOT_FINISHED, where=name)
    rows = comparison(study, record, chosen)
    names = short_names([row["config"] for row in rows])
    table = make_table(
        ("TRIAL", "STEP", study.spec.metric, "RUNS", "CONFIG", "AGAINST THE FIRST"),
        [_compare_row(row, names) for row in rows],
        right=("STEP", study.spec.metric, "RUNS"),
    )
    emit("StudyComparison", {"study": name, "metric": study.spec.metric, "rows": rows}, output, table=table)


@app.command()
def export(
    name: Name,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write to; the study's own by default.")] = None,
    mlflow: Annotated[str | None, typer.Option("--mlflow", help="Also to this MLflow tracking address.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Write the study as JSON, CSVs and an HTML report."""
    from orchestrator.study.export import export as write
    from orchestrator.study.journal import is_driven
    from orchestrator.study.pages import write_page

    study, record, folder = _load(_folder(name))
    rates, running, out = kept_rates(folder), is_driven(folder), to or folder / "export"
    paths = write(study, record, rates, out, running=running)
    paths.append(write_page(study, record, rates, out / "report.html", running=running))
    if mlflow is not None:
        from orchestrator.study.mlflow_export import export_mlflow

        export_mlflow(study, record, rates, mlflow)
    table = make_table(["written"], [[str(path)] for path in paths])
    emit("StudyFiles", {"study": name, "files": [str(path) for path in paths]}, output, table=table)


@app.command()
def promote(
    name: Name,
    trial: Annotated[str | None, typer.Option("--trial", help="Which trial; the best one by default.")] = None,
    job: Annotated[str | None, typer.Option("--name", help="The job's name; STUDY-best by default.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="File to write; standard output by default.")] = None,
) -> None:
    """Write the TrainJob with the best trial's values, marked with where they came from."""
    from orchestrator.study.promote import promoted, to_yaml, usual_name

    study, record, _ = _load(_folder(name))
    if trial is not None and trial not in record.trials:
        raise UserError(f"there is no trial {trial!r}", code=ExitCode.UNKNOWN, where=name)
    chosen = record.trials[trial] if trial is not None else _best(study, record)
    if chosen.last is None:
        raise UserError(f"{chosen.trial} has not reported yet", code=ExitCode.NOT_FINISHED, where=name)
    text = to_yaml(promoted(study, record, chosen, job or usual_name(name)))
    if to is None:
        sys.stdout.write(text)
        return
    to.write_text(text, encoding="utf-8")
    say(f"{to}: {chosen.trial}; run it with: tide submit {to} --wait")


# -- what the verbs share ---------------------------------------------------------------------------------------


def _folder(name: str) -> Path:
    return home_dir() / "studies" / require_name(name, "study")


def _load(folder: Path) -> tuple[Study, StudyRecord, Path]:
    from orchestrator.study.journal import read_journal
    from orchestrator.study.opened import study_of
    from orchestrator.study.record import StudyRecord

    record = StudyRecord(read_journal(folder))
    return study_of(record, folder.name), record, folder


def _values(name: str) -> dict[str, Any]:
    from orchestrator.study.journal import is_driven
    from orchestrator.study.summary import summary

    study, record, folder = _load(_folder(name))
    return summary(study, record, kept_rates(folder), running=is_driven(folder))


def _best(study: Study, record: StudyRecord) -> TrialRecord:
    from orchestrator.study.summary import best_trial

    found = best_trial(study, record)
    if found is None:
        raise UserError("no trial has a result yet", code=ExitCode.NOT_FINISHED, where=study.metadata.name)
    return found


def _compare_row(row: dict[str, Any], names: dict[str, str]) -> list[str]:
    value = row["value"] if row["mean"] is None else row["mean"]
    shown = "" if value is None else f"{value:.5g}"
    if not row["runs"]:
        said = "did not run to its end"
    elif "difference" not in row:
        said = ""
    elif row["significant"] is None:
        said = f"{row['difference']:+.4g}, too few runs to tell from luck"
    else:
        word = "significant" if row["significant"] else "not significant"
        said = f"{row['difference']:+.4g} ({row['low']:+.4g} to {row['high']:+.4g}), {word}"
    return [row["trial"], str(row["step"]), shown, str(row["runs"]), config_text(row["config"], names), said]
