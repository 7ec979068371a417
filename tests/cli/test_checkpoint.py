"""`tide checkpoint`: what people and programs see of a job's checkpoints, and the exit codes."""

from __future__ import annotations

import json
import os

import pytest

from jobs.train.state import FileStorage
from orchestrator.cli.main import main
from tests.train.state.fakes import random_whole, save_to_storage, views, zero12_cuts

WHOLE = random_whole({"a": (40, 3), "b": (5,)}, 1)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job with two checkpoints in the default place."""
    monkeypatch.setenv("TIDE_HOME", str(tmp_path))
    storage = FileStorage(tmp_path / "checkpoints" / "demo")
    for step in (5, 10):
        save_to_storage(storage, views(WHOLE, zero12_cuts(WHOLE, 2)), step, run="demo")
    return storage


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["checkpoint", *arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def _json(capsys, *arguments):
    code, out, err = _run(capsys, *arguments, "-o", "json")
    assert err == ""
    return code, json.loads(out)


def _flip(storage, step):
    path = storage.root / "demo" / f"{step:012d}" / "part-00001-of-00002.a0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_checkpoints_are_listed(capsys, job):
    code, listed = _json(capsys, "ls", "demo")
    assert (code, listed["kind"]) == (0, "CheckpointList")
    assert [item["step"] for item in listed["items"]] == [5, 10]
    assert listed["items"][0]["num_parameters"] == 125
    assert listed["items"][0]["world_size"] == 2
    _, out, _ = _run(capsys, "ls", "demo")
    assert [line.split()[0] for line in out.splitlines()] == ["STEP", "5", "10"]


def test_a_damaged_manifest_is_listed_with_its_problem(capsys, job):
    (job.root / "demo" / f"{10:012d}" / "manifest.json").write_text("{")
    code, listed = _json(capsys, "ls", "demo")
    assert code == 0
    assert "not a manifest" in listed["items"][1]["problem"]


def test_a_job_without_checkpoints_is_an_empty_list(capsys, job):
    code, listed = _json(capsys, "ls", "other")
    assert (code, listed["items"]) == (0, [])
    assert "has no checkpoints" in _run(capsys, "ls", "other")[1]


def test_sound_checkpoints_verify(capsys, job):
    code, checked = _json(capsys, "verify", "demo")
    assert (code, [item["sound"] for item in checked["items"]]) == (0, [True, True])


def test_a_flipped_bit_is_found_and_the_file_named(capsys, job):
    _flip(job, 10)
    code, checked = _json(capsys, "verify", "demo")
    assert (code, [item["sound"] for item in checked["items"]]) == (3, [True, False])
    assert "part-00001-of-00002" in checked["items"][1]["problems"][0]
    assert _json(capsys, "verify", "demo", "--step", "5")[0] == 0


def test_export_writes_the_newest_or_the_named_step(capsys, job, tmp_path):
    code, exported = _json(capsys, "export", "demo", str(tmp_path / "out"))
    assert (code, exported["step"]) == (0, 10)
    assert (tmp_path / "out" / "model.safetensors").exists()
    code, exported = _json(capsys, "export", "demo", str(tmp_path / "old"), "--step", "5")
    assert (code, exported["step"]) == (0, 5)
    code, _, err = _run(capsys, "export", "demo", str(tmp_path / "out"))
    assert code == 7
    assert "not empty" in err


def test_export_of_a_damaged_checkpoint_fails_and_leaves_nothing(capsys, job, tmp_path):
    _flip(job, 10)
    code, _, err = _run(capsys, "export", "demo", str(tmp_path / "out"))
    assert code == 3
    assert "part-00001-of-00002" in err
    assert not (tmp_path / "out").exists()


def test_universal_export_has_one_folder_per_parameter(capsys, job, tmp_path):
    code, _ = _json(capsys, "export", "demo", str(tmp_path / "out"), "--format", "universal")
    assert code == 0
    assert {p.name for p in (tmp_path / "out" / "zero" / "a").iterdir()} == {
        "fp32.pt",
        "exp_avg.pt",
        "exp_avg_sq.pt",
        "step.pt",
    }


def test_gc_keeps_the_newest(capsys, job):
    code, cleaned = _json(capsys, "gc", "demo", "--keep", "1")
    assert (code, cleaned["deleted"], cleaned["kept"]) == (0, [5], [10])
    assert _run(capsys, "gc", "demo", "--keep", "0")[0] == 2


def test_gc_removes_what_interrupted_saves_left_behind(capsys, job):
    old, new = (job.root / "demo" / f"{12:012d}" / f"part.safetensors.{age}.tmp" for age in ("old", "new"))
    old.parent.mkdir()
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert _run(capsys, "gc", "demo", "--keep", "2")[0] == 0
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("command", [("verify", "other"), ("export", "other", "out")])
def test_an_unknown_job_is_code_4(capsys, job, command):
    code, _, err = _run(capsys, *command)
    assert code == 4
    assert "--storage" in err


def test_other_storage_can_be_named(capsys, job, tmp_path):
    code, listed = _json(capsys, "ls", "demo", "--storage", (tmp_path / "checkpoints" / "demo").as_uri())
    assert (code, len(listed["items"])) == (0, 2)
    assert _run(capsys, "ls", "demo", "--storage", "nosuch://x")[0] == 3
    assert _run(capsys, "ls", "../demo")[0] == 3
