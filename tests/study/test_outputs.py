"""What a study leaves: tables, files, pages, a job, MLflow runs."""

from __future__ import annotations

import csv
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.cli.study.forecast import describe_study
from orchestrator.policy.study.values import Rates
from orchestrator.report.page import render_page
from orchestrator.spec import TrainJob, load_text
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import parse_name
from orchestrator.study.events import Drawn, Opened
from orchestrator.study.export import export
from orchestrator.study.journal import Journal
from orchestrator.study.mlflow_export import export_mlflow
from orchestrator.study.pages import study_report, write_page
from orchestrator.study.ports import Start
from orchestrator.study.promote import usual_name
from orchestrator.study.record import StudyRecord
from tests.study.worlds import World, curve_of, drive, make_study

RATES = Rates(usd_per_device_hour=2.0, watts_per_device=100.0)
TWO_KEYS = (
    "{optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-1}, "
    "optimizer.weight_decay: {type: choice, values: [0.0, 0.1]}}"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with one study of 12 trials, the best repeated."""
    home = tmp_path_factory.mktemp("home")
    study = make_study(space=TWO_KEYS, budget="{trials: 12}", more="  repeat: {top: 2, seeds: 3}")
    drive(study, home / "studies" / "search", World(), dataset_hash="0123456789abcdef" * 4)
    return home


@pytest.fixture
def tide(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("TIDE_HOME", str(home))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_status_tells_every_trial(tide: Any) -> None:
    code, out, _ = tide("study", "status", "search", "-o", "json")
    values = json.loads(out)
    assert code == 0
    assert (values["kind"], values["state"], values["why"]) == ("StudyStatus", "done", "trials")
    assert values["spent"]["trials"] == 12
    assert len(values["trials"]) > 12
    assert values["best"]["state"] == "finished"
    assert {"step", "bits_per_byte", "device_s"} <= set(values["best"]["reports"][0])


def test_status_for_people_marks_the_best(tide: Any) -> None:
    code, out, _ = tide("study", "status", "search")
    assert code == 0
    assert "search: done, 12 of 12 trials, best bits_per_byte" in out
    assert " *" in out


def test_an_unknown_study_names_the_known_ones(tide: Any) -> None:
    code, _, err = tide("study", "status", "serch")
    assert code == ExitCode.UNKNOWN
    assert "search" in err


def test_compare_says_when_it_may_be_luck(tide: Any) -> None:
    code, out, _ = tide("study", "compare", "search", "-o", "json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert rows[0]["runs"] == 3
    assert rows[1]["significant"] is not None
    assert any(row.get("significant", 1) is None for row in rows) or all(row["runs"] == 3 for row in rows)


def test_best_and_promote_give_a_job_that_loads_and_knows_its_origin(tide: Any) -> None:
    _, out, _ = tide("study", "best", "search", "-o", "json")
    best = json.loads(out)
    code, text, _ = tide("study", "promote", "search")
    (job,) = load_text(text)
    assert code == 0
    assert isinstance(job, TrainJob)
    assert job.metadata.name == "search-best"
    assert job.metadata.labels["study"] == "search"
    assert job.metadata.labels["trial"] == best["trial"]
    assert job.spec.optimizer.lr == pytest.approx(best["config"]["optimizer.lr"])
    assert job.spec.data.dataset == "corpus@0123456789ab"
    assert "mean" in (job.metadata.description or "")


@pytest.fixture
def diverged(home: Path) -> str:
    """A study of which one trial has measured no number."""

    def curve(start: Start, step: int) -> dict[str, float]:
        return {"bits_per_byte": math.nan if start.trial == "t0002" else curve_of(start, step)}

    if not (home / "studies" / "diverged").exists():
        drive(make_study(name="diverged"), home / "studies" / "diverged", World(curve=curve))
    return "diverged"


def test_a_trial_that_diverged_is_compared_in_json_that_any_program_reads(tide: Any, diverged: str) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    code, out, _ = tide("study", "compare", diverged, "t0001", "t0002", "-o", "json")
    rows = json.loads(out, parse_constant=refuse)["rows"]
    assert (code, rows[1]["value"], rows[1]["runs"]) == (0, None, 0)


def test_a_trial_without_a_result_is_not_promoted(tide: Any, diverged: str) -> None:
    code, out, err = tide("study", "promote", diverged, "--trial", "t0002")
    assert (code, out) == (ExitCode.CONFLICT, "")
    assert "t0002 has no result to repeat: its bits_per_byte is nan" in err


def test_a_job_has_a_name_that_jobs_can_have(tide: Any) -> None:
    code, out, err = tide("study", "promote", "search", "--name", "My Job")
    assert (code, out) == (ExitCode.INVALID, "")
    assert "--name: 'My Job' is not a name" in err
    for study in ("search", "search.2", "search~1", "s" * 63):
        assert parse_name(usual_name(study)).endswith("-best")


def test_export_writes_whole_files(tide: Any, tmp_path: Path) -> None:
    code, out, _ = tide("study", "export", "search", "--to", str(tmp_path / "out"), "-o", "json")
    assert code == 0
    files = {Path(path).name: Path(path) for path in json.loads(out)["files"]}
    assert set(files) == {"study.json", "trials.csv", "reports.csv", "report.html"}
    trials = list(csv.DictReader(files["trials.csv"].read_text().splitlines()))
    document = json.loads(files["study.json"].read_text())
    assert [row["trial"] for row in trials] == [trial["trial"] for trial in document["trials"]]
    assert float(trials[0]["config.optimizer.lr"]) > 0
    assert document["spec"]["metric"] == "bits_per_byte"
    assert all(trial["curve"] for trial in document["trials"] if trial["step"])


def test_the_page_draws_everything_and_says_what_may_be_chance(home: Path, tmp_path: Path) -> None:
    study = make_study(space=TWO_KEYS, budget="{trials: 12}", more="  repeat: {top: 2, seeds: 3}")
    with Journal(home / "studies" / "search") as journal:
        record = StudyRecord(journal.read())
    page = write_page(study, record, RATES, tmp_path / "report.html", running=False).read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    report = study_report(study, record, RATES, running=False)
    assert any("over 3 seeds" in note for note in report.notes)
    shares = {one.key: one for one in report.shares}
    assert shares["optimizer.lr"].is_significant
    assert not shares["optimizer.weight_decay"].is_significant
    assert any("optimizer.weight_decay may be chance" in note for note in report.notes)


def test_a_study_without_repeats_says_that_luck_is_not_known(tmp_path: Path) -> None:
    study = make_study()
    record = drive(study, tmp_path / "s", World())
    notes = study_report(study, record, Rates(), running=False).notes
    assert any("ran with one seed" in note for note in notes)


def test_a_page_of_nothing_yet_is_a_page(tmp_path: Path) -> None:
    study = make_study()
    record = StudyRecord([Opened(at_s=0.0, study=study.to_document(), dataset_hash="", versions={})])
    assert (
        "No trial has a result yet" in write_page(study, record, Rates(), tmp_path / "r.html", running=True).read_text()
    )
    assert "<h1>" in render_page("<b>", [])


def test_a_file_export_of_a_study_with_nothing_reported(tmp_path: Path) -> None:
    study = make_study()
    opened = Opened(at_s=0.0, study=study.to_document(), dataset_hash="", versions={})
    record = StudyRecord([opened, Drawn(at_s=1.0, trial="t0001", config={"optimizer.lr": 1e-3}, seed=0)])
    paths = export(study, record, Rates(), tmp_path, running=True)
    assert all(path.stat().st_size for path in paths)


def test_the_forecast_knows_trials_steps_and_cost() -> None:
    plan = describe_study(make_study(budget='{trials: 9, usd: "0.001"}'), RATES, device_s_per_step=0.1)
    assert plan["trials"] == 9
    assert plan["steps"]["at_most"] == 9 * 90
    assert plan["steps"]["expected"] < plan["steps"]["at_most"]
    assert plan["cost"]["at_most"]["device_hours"] == pytest.approx(81.0 / 3600)
    assert plan["ended_by"] == "usd"
    unknown = describe_study(make_study(budget="{device_hours: 1}"), RATES, None)
    assert unknown["steps"] == {"at_most": None, "expected": None, "rung": 60}
    assert unknown["ended_by"] == "device_hours"
    assert unknown["steps_within_budget"] is None


def test_the_forecast_of_a_budget_without_a_count_of_trials_says_how_many_steps_it_holds() -> None:
    plan = describe_study(make_study(budget='{usd: "0.10", kwh: 0.002}'), RATES, device_s_per_step=0.1)
    assert plan["steps_within_budget"] == 720  # 0.002 kWh at 100 W are 72 s, 0.10 USD at 2 an hour 180 s
    assert plan["cost"]["rung"]["usd"] == pytest.approx(60 * 0.1 * 2.0 / 3600)
    assert plan["ended_by"] is None  # whichever comes first, and nobody knows how many trials there will be


def test_plan_of_a_study_for_people(tide: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(make_study(name="other").to_document()))
    code, out, _ = tide("plan", str(path), "--step-seconds", "0.5", "--usd-per-device-hour", "3")
    assert code == 0
    assert "steps, at most" in out
    assert "usd" in out


def test_running_a_study_that_is_there_is_a_conflict(tide: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(make_study().to_document()))
    code, _, err = tide("study", "run", str(path))
    assert code == ExitCode.CONFLICT
    assert "tide study resume search" in err


def test_a_study_refused_before_its_first_trial_is_not_in_the_way(tide: Any, home: Path, tmp_path: Path) -> None:
    with Journal(home / "studies" / "refused"):
        pass
    study = make_study(name="refused", searcher="{name: tpe}", more="  warm_start: [nowhere]")
    path = tmp_path / "study.json"
    path.write_text(json.dumps(study.to_document()))
    code, _, err = tide("study", "run", str(path))
    assert code == ExitCode.UNKNOWN
    assert "no study 'nowhere'" in err


def test_an_unknown_data_set_is_told_before_a_cluster_is_started(tide: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(make_study(name="elsewhere").to_document()))
    code, _, err = tide("study", "run", str(path))
    assert code == ExitCode.UNKNOWN
    assert "data set 'corpus@latest'" in err
    assert "starting Ray" not in err


def test_stopping_a_study_that_nobody_runs_is_a_conflict(tide: Any) -> None:
    code, _, err = tide("study", "stop", "search")
    assert code == ExitCode.CONFLICT
    assert "nobody runs it" in err


class _MlflowError(Exception):
    """MLflow's own error."""


class _FakeMlflow(types.ModuleType):
    """What the export calls, remembered."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.exceptions = types.SimpleNamespace(MlflowException=_MlflowError)
        self.runs: list[dict[str, Any]] = []

    def set_tracking_uri(self, uri: str) -> None:
        if uri.startswith("gopher"):
            raise _MlflowError("an address of\n  no known kind")

    def set_experiment(self, name: str) -> Any:
        return types.SimpleNamespace(experiment_id=name)

    def search_runs(self, experiments: list[str], output_format: str) -> list[Any]:
        return [types.SimpleNamespace(data=types.SimpleNamespace(tags=run["tags"])) for run in self.runs]

    def start_run(self, run_name: str) -> Any:
        self.runs.append({"name": run_name, "params": {}, "metrics": [], "tags": {}})
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_name))

    def log_params(self, params: dict[str, Any]) -> None:
        self.runs[-1]["params"] |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.runs[-1]["metrics"].append((step, metrics))

    def set_tags(self, tags: dict[str, str]) -> None:
        self.runs[-1]["tags"] |= tags

    def set_tag(self, key: str, value: str) -> None:
        self.runs[-1]["tags"][key] = value

    def end_run(self, status: str) -> None:
        self.runs[-1]["status"] = status


def test_mlflow_gets_every_trial_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake, study = _FakeMlflow(), make_study()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    record = drive(study, tmp_path / "s", World())
    assert export_mlflow(study, record, RATES, "file:///nowhere") == 9
    assert export_mlflow(study, record, RATES, "file:///nowhere") == 0
    assert [run["name"] for run in fake.runs] == list(record.trials)
    assert all(run["status"] == "FINISHED" and run["params"]["optimizer.lr"] > 0 for run in fake.runs)


def test_what_mlflow_refuses_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", _FakeMlflow())
    with pytest.raises(UserError, match="MLflow says: an address of no known kind") as caught:
        export_mlflow(make_study(), StudyRecord(), RATES, "gopher://x")
    assert caught.value.code is ExitCode.UNREACHABLE


def test_without_mlflow_the_export_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="not installed"):
        export_mlflow(make_study(), StudyRecord(), RATES, "x")
