"""A study that this command runs by itself, on a Ray of its own: from the first check to the report."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.observe import configure_logging
from orchestrator.cli.output import Format, emit
from orchestrator.cli.study.rates import keep_rates
from orchestrator.cli.study.tables import study_table
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study
from orchestrator.spec.errors import ExitCode, UserError

if TYPE_CHECKING:
    from orchestrator.study.record import StudyRecord

STOP_FILE = "stop"
"""Its appearance in a study's folder ends the study in order."""


def drive(study: Study, home: Path, given: Rates, output: Format) -> None:
    """Run it to its end, print what came of it, write the report. Raises: UserError (detached) when it was stopped."""
    from rich.console import Console

    from orchestrator.study.pages import write_page
    from orchestrator.study.summary import summary

    folder = home / "studies" / study.metadata.name
    rates = keep_rates(folder, given)
    configure_logging(home)
    record = _run(study, home, rates, Console(stderr=True))
    values = summary(study, record, rates, running=False)
    page = write_page(study, record, rates, folder / "report.html", running=False)
    emit("StudyStatus", {**values, "report": str(page)}, output, table=study_table(values))
    say(f"report: {page}")
    if record.closed is not None and not record.closed.why.is_done:
        raise UserError(
            f"stopped after {len(record.searched)} trials; their states are kept",
            code=ExitCode.DETACHED,
            where=study.metadata.name,
            next_step=f"Go on with: tide study resume {study.metadata.name}",
        )


def _run(study: Study, home: Path, rates: Rates, console: Any) -> StudyRecord:
    from jobs.data import ensure_dataset
    from orchestrator.adapters.ray_cluster import LocalCluster
    from orchestrator.adapters.ray_train.signals import StopSignals
    from orchestrator.adapters.ray_tune.run import StudyOptions, run_study
    from orchestrator.cli.study.live import LiveStudy
    from orchestrator.study.check import require_runnable
    from orchestrator.study.warm_start import earlier_trials

    # Before a cluster is started for nothing:
    require_runnable(study, rates)
    if not has_begun(home / "studies" / study.metadata.name):
        earlier_trials(study, home / "studies")
    ensure_dataset(study.spec.template.data.dataset, home)
    stop_file = home / "studies" / study.metadata.name / STOP_FILE
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        stop_file.unlink(missing_ok=True)
        say("starting Ray on this machine, and a process that has imported torch; trials are forked from it")
        stack.enter_context(LocalCluster((_node(study),)))
        live = stack.enter_context(LiveStudy(console, study, rates))
        options = StudyOptions(rates=rates, wants_stop=_wish(signals, stop_file), on_event=live)
        return run_study(study, home, options)


def _wish(signals: Callable[[], int], stop_file: Path) -> Callable[[], int]:
    """Ctrl-C here, or `tide study stop` elsewhere."""
    return lambda: max(signals(), 1 if stop_file.exists() else 0)


def _node(study: Study) -> Any:
    """A local node with this machine's cores, and room for the smallest study even where there are fewer."""
    from orchestrator.adapters.ray_cluster import NodeSize, num_local_gpus

    workers, concurrency = study.spec.template.workers, study.spec.concurrency
    least, most = workers.min * concurrency.min, workers.max * concurrency.max
    has, needs = num_local_gpus(), workers.resources.GPU * least
    if needs > has:
        raise UserError(
            f"spec.concurrency.min: {least} workers need {needs:g} GPUs, and this machine has {has}",
            code=ExitCode.NEVER,
            next_step="Lower concurrency.min, workers.min or resources.GPU",
        )
    cpus = workers.resources.CPU
    return NodeSize(
        num_cpus=max(cpus * least, min(cpus * most, float(os.cpu_count() or 1))),
        num_gpus=has,
        resources={name: amount * most for name, amount in workers.resources.custom.items()},
    )


def has_begun(folder: Path) -> bool:
    """Whether something was written down: one that was refused before its first trial leaves an empty journal."""
    from orchestrator.study.journal import FILE, read_journal

    return (folder / FILE).exists() and bool(read_journal(folder))


def put_aside(folder: Path) -> Path:
    """Rename an earlier study's folder; the new place."""
    from orchestrator.study.journal import is_driven

    if is_driven(folder):
        raise UserError("it is being run by another process", code=ExitCode.CONFLICT, where=folder.name)
    number = next(n for n in range(1, sys.maxsize) if not folder.with_name(f"{folder.name}~{n}").exists())
    return Path(shutil.move(folder, folder.with_name(f"{folder.name}~{number}")))


def say(line: str) -> None:
    """A line for people, on stderr."""
    print(line, file=sys.stderr)  # noqa: T201
