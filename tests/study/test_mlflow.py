"""The export into a real MLflow, where the optional extra is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.policy.study.values import Rates
from orchestrator.spec.errors import UserError
from orchestrator.study.mlflow_export import export_mlflow
from tests.study.worlds import World, drive, make_study

# MLflow's own use of its libraries is not ours to judge.
pytestmark = pytest.mark.filterwarnings("ignore")

RATES = Rates(usd_per_device_hour=2.0, watts_per_device=100.0)


@pytest.fixture
def mlflow() -> Any:
    return pytest.importorskip("mlflow", reason="MLflow is not installed")


def test_every_trial_is_a_run_once_with_its_values_and_every_report(mlflow: Any, tmp_path: Path) -> None:
    study = make_study()
    record = drive(study, tmp_path / "s", World())
    address = f"sqlite:///{tmp_path}/mlflow.db"
    assert export_mlflow(study, record, RATES, address) == len(record.trials) == 9
    assert export_mlflow(study, record, RATES, address) == 0
    client = mlflow.MlflowClient(address)
    (experiment,) = [one for one in client.search_experiments() if one.name.startswith("tideline/")]
    runs = {run.data.tags["tideline.trial"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(record.trials)
    for name, trial in record.trials.items():
        history = client.get_metric_history(runs[name].info.run_id, "bits_per_byte")
        assert [(one.step, one.value) for one in history] == [
            (one.step, one.metrics["bits_per_byte"]) for one in trial.measures
        ]
        assert float(runs[name].data.params["optimizer.lr"]) == trial.config["optimizer.lr"]
        assert runs[name].data.metrics["usd"] > 0


def test_a_folder_is_refused_with_what_to_give_instead(mlflow: Any, tmp_path: Path) -> None:
    study = make_study()
    record = drive(study, tmp_path / "s", World())
    with pytest.raises(UserError, match="sqlite:///FILE"):
        export_mlflow(study, record, RATES, (tmp_path / "runs").as_uri())
