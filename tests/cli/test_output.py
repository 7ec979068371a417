"""What is printed for people is what was said, brackets and all, and pipes get no blanks at line ends."""

from __future__ import annotations

import json

import pytest
import yaml

from orchestrator.cli.output import Format, emit, make_table

PAYLOAD = {"items": [{"name": "a", "note": "[wip] see [/x]"}]}


def test_brackets_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table(("NAME", "NOTE", ""), [("a", "[wip] see [/x]", None)])
    emit("Notes", PAYLOAD, Format.TABLE, table=table)
    emit("Notes", PAYLOAD, Format.TABLE, table="[bold]none[/]")
    assert capsys.readouterr().out == "NAME  NOTE\na     [wip] see [/x]\n[bold]none[/]\n"


def test_programs_get_kind_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    emit("Notes", PAYLOAD, Format.JSON, table="")
    as_json = json.loads(capsys.readouterr().out)
    emit("Notes", PAYLOAD, Format.YAML, table="")
    assert as_json == yaml.safe_load(capsys.readouterr().out)
    assert (as_json["apiVersion"], as_json["kind"]) == ("tideline/v1", "Notes")
