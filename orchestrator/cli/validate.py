"""`tide validate PATH...`: checks YAML files, and folders of them, and tells every problem at once."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import typer

from orchestrator.cli.output import Format, Output, emit
from orchestrator.spec import ExitCode, Problem, UserError, check_file
from orchestrator.spec.load import Report

app = typer.Typer()


@app.command()
def validate(
    paths: list[Path] = typer.Argument(help="YAML files, or folders that are searched for them."),
    output: Output = Format.TABLE,
) -> int:
    """Check YAML files; exit 0 when all of them are fine, 3 when one is not.

    In folders, documents of other programs are skipped and counted; a file that is named must be ours.
    """
    now = dt.datetime.now(dt.UTC)
    reports = {file: check_file(file, now=now, skip_foreign=foreign_allowed) for file, foreign_allowed in _files(paths)}
    _print(reports, output)
    return ExitCode.INVALID if any(report.problems for report in reports.values()) else ExitCode.OK


def _files(paths: list[Path]) -> list[tuple[Path, bool]]:
    """Every file to read, once, with whether it may hold documents of other programs."""
    found: dict[Path, bool] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = False
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix in (".yaml", ".yml") and one.is_file())
        if not inside:
            raise UserError(
                "holds no YAML files; there must be one at least",
                code=ExitCode.INVALID,
                where=str(path),
                next_step="Name another folder, or a file",
            )
        for one in inside:
            found.setdefault(one, True)
    return list(found.items())


def _print(reports: dict[Path, Report], output: Format) -> None:
    problems = [problem for report in reports.values() for problem in report.problems]
    num_fine = sum(len(report.specs) for report in reports.values() if not report.problems)
    num_foreign = sum(report.num_foreign for report in reports.values())
    if output is not Format.TABLE:
        emit("Validation", _document(reports, problems, num_fine, num_foreign), output, table="")
        return
    for problem in problems:
        typer.echo(str(problem), err=True)
    others = f", {_count(num_foreign, 'document')} of other programs skipped" if num_foreign else ""
    bad = f", {_count(len(problems), 'problem')}" if problems else ""
    typer.echo(f"{_count(num_fine, 'document')} in {_count(len(reports), 'file')} fine{bad}{others}")


def _document(reports: dict[Path, Report], problems: list[Problem], num_fine: int, num_foreign: int) -> dict[str, Any]:
    keys = ("file", "line", "column", "code", "path", "what", "want", "next_step")
    return {
        "files": len(reports),
        "fine": num_fine,
        "foreign": num_foreign,
        "problems": [{key: getattr(problem, key) for key in keys} for problem in problems],
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
