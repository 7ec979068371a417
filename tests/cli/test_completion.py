"""Verbs complete without being imported, in each shell's protocol."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.cli.completion import SCRIPTS, Shell
from orchestrator.cli.main import VERBS, main

PROGRAM = """
import sys
from orchestrator.cli.main import main
try:
    main()
finally:
    heavy = [name for name in ("ray", "torch", "httpx", "sqlalchemy") if name in sys.modules]
    assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("how", "typed"),
    [
        ("complete_bash", {"COMP_WORDS": "tide re", "COMP_CWORD": "1"}),
        ("complete_fish", {"_TYPER_COMPLETE_ARGS": "tide re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_verbs_complete_at_once(how: str, typed: dict[str, str]) -> None:
    environment = {**os.environ, "_TIDE_COMPLETE": how, **typed}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        verb for verb in VERBS if verb.startswith("re")
    ]


@pytest.mark.parametrize("shell", Shell)
def test_each_script_says_where_it_goes(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", shell])
    assert ended.value.code == 0
    assert capsys.readouterr().out == SCRIPTS[shell]
    assert f"tide completion {shell}" in SCRIPTS[shell].partition("_tide_complete")[0]


def test_bash_reads_its_script() -> None:
    subprocess.run(["bash", "-n"], input=SCRIPTS[Shell.BASH], text=True, check=True)
