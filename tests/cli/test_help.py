"""Help has examples that parse, says things one way at every depth, and fits narrow terminals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.cli import main as cli
from orchestrator.cli.help import EXAMPLES, SECTIONS
from tests.cli.parsing import commands, trouble

_NARROW = 60


def _below(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _below(below, f"{path} {name}")


def _everything() -> dict[str, Any]:
    root = cli.root_command()
    return {path: command for verb in cli.VERBS for path, command in _below(root.get_command(None, verb), verb)}


ALL = _everything()


def test_every_verb_is_in_one_section() -> None:
    listed = [verb for verbs in SECTIONS.values() for verb in verbs]
    assert sorted(listed) == sorted(cli.VERBS)


def test_examples_are_of_verbs_that_are_there() -> None:
    assert set(EXAMPLES) - {""} <= set(ALL)
    assert set(cli.VERBS) <= set(EXAMPLES)


@pytest.mark.parametrize(("path", "line"), [(path, line) for path, lines in EXAMPLES.items() for line in lines])
def test_an_example_parses_and_is_of_its_verb(path: str, line: str) -> None:
    found = commands(line)
    assert found
    assert [trouble(words) for words in found] == [None] * len(found)
    assert path in ("", "up") or any(" ".join(words).startswith(path) for words in found)


@pytest.mark.parametrize("path", ALL)
def test_help_fits_narrow_terminals_and_pipes(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ALL[path]
    context = command.make_context(path.split()[-1], [], resilient_parsing=True, terminal_width=_NARROW)
    text = command.get_help(context)
    body = text.partition("Examples:")[0]
    assert max(map(len, body.splitlines())) <= _NARROW
    assert not set(text) & set("╭│╰─\x1b")


@pytest.mark.parametrize("path", ALL)
def test_everything_says_what_it_is_for(path: str) -> None:
    command = ALL[path]
    assert command.help
    assert [param.name for param in command.params if not getattr(param, "help", None)] == []
    assert not {"install_completion", "show_completion"} & {param.name for param in command.params}


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["plan", "-h"], ["data", "pack", "-h"]])
def test_the_usual_options_are_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert not ended.value.code
    assert "tide" in capsys.readouterr().out


def test_trouble_is_seen() -> None:
    assert "No such option" in str(trouble(["ps", "--quue", "x"]))
    assert "Did you mean" in str(trouble(["data", "pakc"]))
    assert "Missing argument" in str(trouble(["validate"]))
