"""What only a server can do is refused where a command runs something by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.spec.errors import ExitCode
from tests.cli.control_server import tide
from tests.spec.documents import ENDPOINT, STUDY, spoil

HOOK = "  notify: [{url: https://hooks.example.com/x}]"


@pytest.mark.parametrize(("command", "document"), [(("serve",), ENDPOINT), (("study", "run"), STUDY)])
def test_nobody_is_told_of_an_end_in_the_foreground(
    other: Path, command: tuple[str, ...], document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = other / "hooked.yaml"
    file.write_text(spoil(document, HOOK))
    assert tide(*command, str(file)) == ExitCode.INVALID
    said = capsys.readouterr().err
    assert "spec.notify: what this command runs by itself is told to nobody" in said
    assert f"tide submit {file}" in said
