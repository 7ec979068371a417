"""`tide cluster replay`: what it refuses before a node is started, and what it prints of a replay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.ray_train.events import Cause, Status
from orchestrator.adapters.ray_train.run import RunResult
from orchestrator.adapters.replay import session
from orchestrator.adapters.replay.outcome import Curve, Recovery
from orchestrator.adapters.replay.session import Replayed
from orchestrator.cli import main as cli

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: small}
spec:
  workers: {min: 1, max: 4, resources: {CPU: 1}}
  task: jobs.models.gpt:task
  data: {dataset: python-stdlib@latest}
  batch: {global_batch_size: 8, micro_batch_size: 1}
  steps: 10
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDE_HOME", str(tmp_path / "home"))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "events.csv").write_text("t_ms,event,node\n0,add,a\n9000000,remove,a\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["cluster", "replay", str(folder / "events.csv"), "--job", str(folder / "job.yaml"), *options])
    out, err = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, out, err


def replayed(folder: Path, **changes: object) -> Replayed:
    recovery = Recovery(attempt=2, cause=Cause.NOTICE, from_size=3, to_size=2, at_s=5.0, recovery_s=1.25, steps_lost=0)
    done = Replayed(
        run=RunResult(
            run_id="small", status=Status.PAUSED, detail="", steps=40, loss=1.0, run_dir=folder, dataset_hash="h"
        ),
        played={"add": 3, "remove": 1},
        recoveries=(recovery,),
        training_goodput=0.9,
        steps_lost=0,
        waiting_s=0.0,
        busy_s=2.0,
        curve=Curve(steps=40, max_rel_diff=1e-7, samples_differ=0),
        interrupted=False,
    )
    return replace(done, **changes)  # type: ignore[arg-type]


def test_what_came_of_it_is_one_object_for_programs(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(session, "replay", lambda job, home, how, **_: asked.append(how) or replayed(files))
    code, out, _ = run(capsys, files, "--share", "1", "--for", "3h", "--speed", "30", "--notice", "0s", "-o", "json")
    result = json.loads(out)
    assert code == 0
    assert (asked[0].seconds, asked[0].speed, asked[0].notice_s, len(asked[0].events)) == (10_800.0, 30.0, 0.0, 2)
    assert (result["kind"], result["steps"], result["steps_lost"]) == ("ClusterReplay", 40, 0)
    assert result["recoveries"] == [
        {"attempt": 2, "cause": "notice", "from_workers": 3, "to_workers": 2, "recovery_s": 1.25, "steps_lost": 0}
    ]
    assert (result["loss_max_rel_diff"], result["steps_with_other_samples"]) == (1e-7, 0)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"curve": Curve(steps=40, max_rel_diff=0.2, samples_differ=0)}, 100, "up to 2.0e-01 away"),
        ({"curve": Curve(steps=40, max_rel_diff=0.0, samples_differ=3)}, 100, "3 steps had other samples"),
        ({"interrupted": True, "curve": None}, 130, "stopped"),
    ],
)
def test_an_unequal_curve_and_a_stop_are_printed_and_then_told_by_the_exit_code(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(session, "replay", lambda *_, **__: replayed(files, **changes))
    got, out, err = run(capsys, files, "--share", "1")
    assert got == code
    assert words in err
    assert "3 → 2" in out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--for", "soon"], 3, "--for"),
        (["--for", "0s"], 3, "--for"),
        (["--notice", "-5s"], 3, "--notice"),
        (["--share", "0"], 2, "share"),
        (["--speed", "0.5"], 2, "speed"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_node_is_started(
    files: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, words: str
) -> None:
    got, out, err = run(capsys, files, *options)
    assert (got, out) == (code, "")
    assert words in err


def test_a_bad_recording_is_named_by_file_line_and_column(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "events.csv").write_text("t_ms,event,node\n0,add,a\n5,died,a\n")
    code, _, err = run(capsys, files)
    assert code == 3
    assert f"{files / 'events.csv'}:3: column 'event': 'died' is neither" in err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("resources: {GPU: 1}", "have no GPUs"),
        ("min: 2, max: 4, resources: {CPU: 1}", "2 workers, and 1 of the played"),
    ],
)
def test_a_job_that_cannot_be_played_is_refused_and_earlier_runs_stay_where_they_are(
    files: Path, capsys: pytest.CaptureFixture[str], changed: str, words: str
) -> None:
    before = "resources: {CPU: 1}" if changed.startswith("resources") else "min: 1, max: 4, resources: {CPU: 1}"
    (files / "job.yaml").write_text(JOB.replace(before, changed))
    earlier = files / "home" / "runs" / "small"
    earlier.mkdir(parents=True)
    code, out, err = run(capsys, files, "--share", "1")
    assert (code, out) == (8, "")
    assert words in err
    assert [path.name for path in earlier.parent.iterdir()] == ["small"]
