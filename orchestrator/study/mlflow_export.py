"""A study as MLflow runs: one experiment a study, one run a trial, every report a metric at its step.

MLflow is an optional extra (`pip install tideline[mlflow]`). It writes to a tracking server (http://...) or a database
(sqlite:///FILE); a plain folder only with MLFLOW_ALLOW_FILE_STORE=true, which MLflow itself asks for.
"""

from __future__ import annotations

import importlib
import math
import os
from typing import Any

from orchestrator.policy.study.values import Rates, TrialState, spent
from orchestrator.spec import Study
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.record import StudyRecord, TrialRecord

_STATUS = {TrialState.FINISHED: "FINISHED", TrialState.STOPPED: "FINISHED", TrialState.FAILED: "FAILED"}


def export_mlflow(study: Study, record: StudyRecord, rates: Rates, tracking_uri: str) -> int:
    """Write every trial that is over to `tracking_uri`; returns how many were new.

    A trial that is there already (by its tag) is left alone, so this may be repeated.
    Raises: UserError where MLflow is not installed, or refuses the address or does not reach it.
    """
    mlflow = _mlflow()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 are minutes without a word
    try:
        return _export(mlflow, study, record, rates, tracking_uri)
    except mlflow.exceptions.MlflowException as error:
        raise UserError(
            f"MLflow says: {' '.join(str(error).split())[:300]}",
            code=ExitCode.UNREACHABLE,
            where=f"--mlflow {tracking_uri}",
            next_step="Give the address of a tracking server (http://HOST:5000) or a database (sqlite:///FILE)",
        ) from error


def _export(mlflow: Any, study: Study, record: StudyRecord, rates: Rates, tracking_uri: str) -> int:
    mlflow.set_tracking_uri(tracking_uri)
    name = f"tideline/{study.metadata.tenant}/{study.metadata.name}"
    experiment = mlflow.set_experiment(name)
    there = {
        run.data.tags.get("tideline.trial")
        for run in mlflow.search_runs([experiment.experiment_id], output_format="list")
    }
    new = [trial for trial in record.trials.values() if trial.state.is_over and trial.trial not in there]
    for trial in new:
        _write(mlflow, trial, record, rates)
    return len(new)


def _write(mlflow: Any, trial: TrialRecord, record: StudyRecord, rates: Rates) -> None:
    run = mlflow.start_run(run_name=trial.trial)
    used = spent(trial.device_s, rates)
    mlflow.log_params({**trial.config, "data.seed": trial.seed})
    for one in trial.measures:
        mlflow.log_metrics({key: v for key, v in one.metrics.items() if math.isfinite(v)}, step=one.step)
    mlflow.log_metrics({"device_hours": used.device_hours, "usd": used.usd, "kwh": used.kwh})
    tags = {"tideline.state": str(trial.state), "tideline.dataset_hash": record.dataset_hash}
    tags |= {"tideline.repeat_of": trial.repeat_of} if trial.repeat_of else {}
    # The mark that the trial is complete comes last: a run without it was cut off, and is written again.
    mlflow.set_tags({**tags, "tideline.run_id": run.info.run_id})
    mlflow.set_tag("tideline.trial", trial.trial)
    mlflow.end_run(status=_STATUS[trial.state])


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ModuleNotFoundError:
        raise UserError(
            "MLflow is not installed", code=ExitCode.USAGE, where="--mlflow", next_step="pip install 'tideline[mlflow]'"
        ) from None
