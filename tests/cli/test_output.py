"""What is printed for people is what was said, brackets and all, and pipes get no blanks at line ends."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from orchestrator.cli.output import Format, emit, make_table

PAYLOAD = {"items": [{"name": "a", "note": "[wip] see [/x]"}]}


def test_brackets_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(("NAME", "NOTE", ""), [("a", "[wip] see [/x]", None)])
    emit("Notes", PAYLOAD, Format.TABLE, table=table)
    emit("Notes", PAYLOAD, Format.TABLE, table="[bold]none[/]")
    assert capsys.readouterr().out == "NAME  NOTE\na     [wip] see [/x]\n[bold]none[/]\n"


LONG = "a sentence of some length that a narrow terminal has no room for in one line"
WIDE = make_table(("JOB", "STATE", "TENANT", "WHY"), [("demo-gpt", "queued", "research", LONG)])


def test_a_pipe_gets_whole_lines_however_narrow_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    emit("Notes", PAYLOAD, Format.TABLE, table=WIDE)
    assert capsys.readouterr().out.splitlines()[1].split("  ")[-1] == LONG


@pytest.mark.parametrize("columns", ["20", "40", "60", "200"])
def test_a_narrow_terminal_breaks_sentences_and_no_words(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    emit("Notes", PAYLOAD, Format.TABLE, table=WIDE)
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split()
    assert {"JOB", "STATE", "TENANT", "WHY", "demo-gpt", "queued", "research", *LONG.split()} == set(said)


def test_programs_get_kind_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    emit("Notes", PAYLOAD, Format.JSON, table="")
    as_json = json.loads(capsys.readouterr().out)
    emit("Notes", PAYLOAD, Format.YAML, table="")
    assert as_json == yaml.safe_load(capsys.readouterr().out)
    assert (as_json["apiVersion"], as_json["kind"]) == ("tideline/v1", "Notes")


def test_what_is_no_number_is_nothing_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    payload = {"loss": float("nan"), "rows": [{"best": float("inf"), "step": 3}, (1.5, -float("inf"))]}
    emit("Run", payload, Format.JSON, table="")
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    emit("Run", payload, Format.YAML, table="")
    assert found == yaml.safe_load(capsys.readouterr().out)
    assert (found["loss"], found["rows"]) == (None, [{"best": None, "step": 3}, [1.5, None]])
