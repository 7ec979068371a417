"""Reads lines for a shell as `tide` would, without running them: for the examples of the help and of the documents."""

from __future__ import annotations

import re
import shlex
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from orchestrator.cli.main import root_command
from orchestrator.spec.errors import UserError

_BETWEEN_COMMANDS = {";", "|", "&&", ">", "&", "||"}


def commands(line: str) -> list[list[str]]:
    """The words of every `tide` command in a line, as a shell would start them."""
    line = re.sub(r'^\$ |^eval "\$\(|\)"$', "", line.strip())
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _BETWEEN_COMMANDS:
            found.append([])
        else:
            found[-1].append(word)
    return [words[1:] for words in found if words and words[0] == "tide"]


def trouble(words: list[str]) -> str | None:
    """What `tide WORDS` would refuse as usage; None when it would go to work."""
    try:
        _parse(root_command(), "tide", words)
    except (TyperException, UserError) as error:
        return error.format_message() if isinstance(error, TyperException) else str(error)
    return None


def _parse(command: Any, name: str, words: list[str], above: Any = None) -> None:
    context = command.make_context(name, list(words), parent=above)
    rest = [*getattr(context, "_protected_args", ()), *context.args]
    if isinstance(command, TyperGroup) and rest:
        name, below, rest = command.resolve_command(context, rest)
        _parse(below, name, rest, context)
