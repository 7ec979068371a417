"""`tide data`: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.spec.errors import ExitCode
from tests.data.conftest import WriteFolder, some_files


@pytest.fixture(autouse=True)
def state_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDE_HOME", str(home))


def tide(*words: str | Path) -> ExitCode:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return ExitCode(caught.value.code)


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_pack_list_and_verify(write_folder: WriteFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert tide("data", "pack", write_folder(some_files()), "--name", "texts", "-o", "json") is ExitCode.OK
    made = shown(capsys)
    assert (made["apiVersion"], made["kind"], made["name"], made["passed_over"]) == (
        "tideline/v1",
        "Dataset",
        "texts",
        0,
    )
    assert tide("data", "ls", "-o", "json") is ExitCode.OK
    [listed] = shown(capsys)["items"]
    assert listed["latest"]
    assert {key: listed[key] for key in ("version", "ref", "splits", "folder")} == {
        key: made[key] for key in ("version", "ref", "splits", "folder")
    }
    assert tide("data", "verify", made["ref"], "-o", "json") is ExitCode.OK
    assert shown(capsys)["state"] == "ok"


def test_verify_names_every_damaged_shard_and_exits_3(
    write_folder: WriteFolder, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tide("data", "pack", write_folder(some_files()), "--name", "texts", "-o", "json")
    folder = Path(shown(capsys)["folder"])
    victims = sorted(folder.glob("*.shard"))
    for victim in victims:
        victim.chmod(0o644)
        victim.write_bytes(victim.read_bytes()[:-1])
    assert tide("data", "verify", "texts@latest", "-o", "json") is ExitCode.INVALID
    out, err = capsys.readouterr()
    assert sorted(found["file"] for found in json.loads(out)["damaged"]) == [str(victim) for victim in victims]
    assert f"{len(victims)} damaged shards in texts@latest" in err


def test_tables_are_for_people(write_folder: WriteFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert tide("data", "ls") is ExitCode.OK
    assert "no data sets" in capsys.readouterr().out
    tide("data", "pack", write_folder({**some_files(), "logo": b"\0"}), "--name", "texts")
    assert "1 empty or binary files passed over" in capsys.readouterr().out
    tide("data", "ls")
    assert "(latest)" in capsys.readouterr().out
    tide("data", "verify", "texts")
    assert "every shard is what it was" in capsys.readouterr().out


def test_a_terminal_gets_a_progress_bar_and_stdout_stays_data(
    write_folder: WriteFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    tide("data", "pack", write_folder(some_files()), "--name", "texts", "-o", "json")
    out, err = capsys.readouterr()
    assert json.loads(out)["name"] == "texts"
    assert "packing" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["data", "pack", "/no/such/folder", "--name", "texts"], ExitCode.UNKNOWN),
        (["data", "pack", ".", "--name", "../up"], ExitCode.INVALID),
        (["data", "pack", ".", "--name", "python-stdlib"], ExitCode.CONFLICT),
        (["data", "pack", "."], ExitCode.USAGE),
        (["data", "verify", "nothing@latest"], ExitCode.UNKNOWN),
        (["data", "verify", "no/reference"], ExitCode.INVALID),
    ],
)
def test_mistakes_get_their_exit_code(words: list[str], code: ExitCode, capsys: pytest.CaptureFixture[str]) -> None:
    assert tide(*words) is code
    assert "Traceback" not in capsys.readouterr().err


def test_include_and_exclude_reach_the_packer(write_folder: WriteFolder, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder({"a.py": b"x = 1\n" * 9, "b.txt": b"words " * 9, "old/c.py": b"y\n" * 9})
    tide("data", "pack", root, "--name", "code", "--include", "*.py", "--exclude", "old", "-o", "json")
    assert shown(capsys)["splits"]["train"]["documents"] == 1
