"""The root of the command line: exit codes, and one line instead of a traceback."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main as cli
from orchestrator.spec.errors import ExitCode, UserError


def run(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    return int(stop.value.code or 0)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in cli.VERBS)


def test_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vaildate"]) == ExitCode.USAGE
    assert "validate" in capsys.readouterr().err


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_loads_and_helps(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert f"tide {verb}" in capsys.readouterr().out


def test_user_error_is_one_line_and_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("no such queue: nihgtly", code=ExitCode.UNKNOWN, where="job.yaml:3:1", next_step="Did you?")

    monkeypatch.setattr("typer.core.TyperGroup.main", refuse)
    assert run(["validate"]) == ExitCode.UNKNOWN
    assert capsys.readouterr().err == "error: job.yaml:3:1: no such queue: nihgtly. Did you?\n"


def test_bug_says_so_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("typer.core.TyperGroup.main", lambda *_, **__: 1 / 0)
    assert run(["validate"]) == ExitCode.BUG
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err


def test_user_error_survives_pickling() -> None:
    error = UserError("p", code=ExitCode.NEVER, where="w", next_step="n")
    again = pickle.loads(pickle.dumps(error))
    assert (again.problem, again.code, again.where, again.next_step) == ("p", ExitCode.NEVER, "w", "n")


def test_a_full_disk_is_no_bug_of_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("typer.core.TyperGroup.main", full)
    assert run(["validate"]) == ExitCode.BUG
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert "Free some" in err
    assert "bug" not in err


def test_a_file_that_the_user_named_is_no_bug_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(place: Path) -> None:
        monkeypatch.setattr("typer.core.TyperGroup.main", lambda *_, **__: (place / "job.yaml").write_text(""))

    write(tmp_path / "none")
    for named in (str(tmp_path / "none"), f"--to={tmp_path / 'none' / 'job.yaml'}"):
        assert run(["study", "promote", "s", named]) == ExitCode.INVALID
        err = capsys.readouterr().err
        assert (
            err == f"error: {tmp_path / 'none' / 'job.yaml'}: No such file or directory. Name another file or folder\n"
        )
    assert run(["study", "promote", "s", "--to", str(tmp_path / "other")]) == ExitCode.BUG


def test_a_state_folder_that_cannot_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIDE_HOME", str(tmp_path / "file" / "home"))
    assert run(["models", "ls"]) == ExitCode.INVALID
    assert "TIDE_HOME" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["study", "status"], ["study", "resume"], ["checkpoint", "ls"], ["resize"]])
@pytest.mark.parametrize("name", ["", "..", "../../etc", "a" * 300, "Two Words", "\x1b[31m", "a\n"])
def test_what_cannot_be_a_name_becomes_no_folder(
    verb: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDE_HOME", str(tmp_path))
    assert run([*verb, name, *(["3"] if verb == ["resize"] else [])]) == ExitCode.INVALID
    err = capsys.readouterr().err
    assert "cannot name a" in err
    assert "\x1b" not in err
    assert list(tmp_path.iterdir()) == []


def test_whoever_stops_reading_hears_nothing_of_it() -> None:
    """`tide schema Cluster | true`: the pipe is closed before it was read."""
    reads, writes = os.pipe()
    os.close(reads)
    program = "from orchestrator.cli.main import main; main(['schema', 'Cluster'])"
    with os.fdopen(writes, "w") as pipe:
        done = subprocess.run([sys.executable, "-c", program], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""
