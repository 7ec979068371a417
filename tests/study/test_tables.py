"""What is read of a study: 80 columns, failures named, the best by its seeds; and JSON that every parser takes."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.study.tables import config_text, headline, short_names, study_table
from orchestrator.policy.study.values import Rates
from orchestrator.study.events import Began, Drawn, Event, Opened, Reported, Ruling
from orchestrator.study.export import export
from orchestrator.study.journal import read_journal
from orchestrator.study.ports import Start
from orchestrator.study.record import StudyRecord
from orchestrator.study.summary import best_trial, summary
from tests.study.worlds import Killed, World, curve_of, drive, make_study

RATES = Rates(usd_per_device_hour=2.0)


def _lines(values: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as printed:
        console.print(study_table(values), highlight=False)
    return printed.get().splitlines()


def test_one_key_and_a_price_fit_one_line_a_trial_in_80_columns(tmp_path: Path) -> None:
    study = make_study(more="  repeat: {top: 1, seeds: 3}")
    record = drive(study, tmp_path, World(), RATES)
    lines = _lines(summary(study, record, RATES, running=False))
    assert max(len(line.rstrip()) for line in lines) <= 80
    rows = [line for line in lines if line.startswith("t0")]
    assert len(rows) == len(record.trials)
    assert all("lr=" in row for row in rows)
    assert {"RUNG", "STEP", "bits_per_byte", "DEVICE-H", "USD"} <= {word for line in lines for word in line.split()}


def test_failures_are_named_below_the_table_and_leave_its_columns_alone(tmp_path: Path) -> None:
    study = make_study()

    def curve(start: Start, step: int) -> dict[str, float]:
        return {"bits_per_byte": math.nan if start.trial == "t0002" else curve_of(start, step)}

    record = drive(study, tmp_path / "s", World(curve=curve))
    values = summary(study, record, Rates(), running=False)
    lines = _lines(values)
    assert "t0002 failed: bits_per_byte is nan after step 10" in lines
    assert "USD" not in " ".join(lines)
    assert values["trials"][1]["value"] is None
    files = export(study, record, Rates(), tmp_path / "out", running=False)
    json.loads(files[0].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_a_dead_driver_left_running_is_called_interrupted(tmp_path: Path) -> None:
    study = make_study()
    with pytest.raises(Killed):
        drive(study, tmp_path, World(dies_after_polls=3))
    record = StudyRecord(read_journal(tmp_path))
    states = {
        running: {trial["state"] for trial in summary(study, record, Rates(), running=running)["trials"]}
        for running in (True, False)
    }
    assert states == {True: {"running"}, False: {"interrupted"}}


def test_keys_are_short_where_that_is_clear() -> None:
    configs = [{"optimizer.lr": 0.00123456, "args.layers": 2}, {"args.lr": 1}]
    assert short_names(configs) == {"optimizer.lr": "optimizer.lr", "args.layers": "layers", "args.lr": "args.lr"}
    assert config_text(configs[0], short_names(configs[:1])) == "lr=0.001235 layers=2"


def test_of_trials_with_seeds_the_best_mean_is_the_best_not_the_luckiest_run() -> None:
    results = {"t1": (2.0, 2.6, 2.5), "t2": (2.1, 2.2, 2.0), "t3": (2.3,)}
    study = make_study(scheduler="{name: none}")
    events: list[Event] = [Opened(at_s=0.0, study=study.to_document(), dataset_hash="", versions={})]
    for name, values in results.items():
        for number, value in enumerate(values):
            trial, source = (f"{name}-s{number}", name) if number else (name, "")
            events += [
                Drawn(at_s=1.0, trial=trial, config={"optimizer.lr": 0.01}, seed=number, repeat_of=source),
                Began(at_s=1.0, trial=trial, attempt=1, step=0, workers=1),
                Reported(
                    at_s=2.0,
                    trial=trial,
                    attempt=1,
                    step=90,
                    metrics={"bits_per_byte": value},
                    device_s=1.0,
                    ruling=Ruling.FINISH,
                ),
            ]
    record = StudyRecord(events)
    best = best_trial(study, record)
    assert best is not None
    assert best.trial == "t2"
    assert "best bits_per_byte 2.1 (t2, mean of 3 seeds)" in headline(summary(study, record, Rates(), running=False))
