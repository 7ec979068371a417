"""A study as files for other programs: one JSON with everything, CSVs of trials and of every report."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study
from orchestrator.study.record import StudyRecord
from orchestrator.study.summary import summary


def export(study: Study, record: StudyRecord, rates: Rates, folder: Path, *, running: bool) -> list[Path]:
    """Write `study.json`, `trials.csv` and `reports.csv`, each whole or not at all; returns their paths."""
    values = summary(study, record, rates, running=running)
    values["spec"] = study.to_document()["spec"]
    for row, trial in zip(values["trials"], record.trials.values(), strict=True):
        row["curve"] = [
            {"step": step, "loss": loss if math.isfinite(loss) else None, "lr": lr} for step, loss, lr in trial.curve
        ]
    folder.mkdir(parents=True, exist_ok=True)
    document = {"apiVersion": "tideline/v1", "kind": "StudyExport", **values}
    return [
        _write(folder / "study.json", json.dumps(document, indent=1, default=str, allow_nan=False)),
        _write(folder / "trials.csv", _csv(_trial_rows(values["trials"]))),
        _write(folder / "reports.csv", _csv(_report_rows(values["trials"]))),
    ]


def _trial_rows(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = sorted({key for trial in trials for key in trial["config"]})
    names = sorted({name for trial in trials for name in trial["metrics"]})
    plain = ("trial", "state", "detail", "seed", "repeat_of", "step", "attempts", "steps_run", "steps_lost")
    return [
        {name: trial[name] for name in (*plain, "device_hours", "usd", "kwh")}
        | {f"config.{key}": trial["config"].get(key) for key in keys}
        | {f"metrics.{name}": trial["metrics"].get(name) for name in names}
        for trial in trials
    ]


def _report_rows(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = sorted({name for trial in trials for report in trial["reports"] for name in report})
    rest = [name for name in names if name not in ("step", "device_s")]
    return [
        {"trial": trial["trial"], **{name: report.get(name) for name in ("step", "device_s", *rest)}}
        for trial in trials
        for report in trial["reports"]
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path
