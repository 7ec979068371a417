"""The demo's own path with few steps: real Ray, real DeepSpeed, real Ray Serve, the real OpenAI client."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from orchestrator.cli import main as cli
from orchestrator.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_demo_trains_registers_serves_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--steps", "12"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    version = Registry(tmp_path / "models").get("demo-gpt@latest")
    assert version.number == 1
    assert 0 < version.provenance.metrics["bits_per_byte"] < 8
    assert "def fibonacci(n):" in out
    assert "unigram" in out
    table = {cells[0]: cells for line in out.splitlines() if len(cells := line.split()) > 6}
    assert {"keystroke", "interactive", "batch"} <= table.keys()
    assert table["keystroke"][1] == "priority"
    assert int(table["keystroke"][2]) > 0
    rows_done = re.search(r"The batch: (\d+) of 2000 rows", out)
    assert rows_done is not None
    assert int(rows_done[1]) > 0
    day = re.search(r"The day \(12 h in 16 s\): (\d+) of (\d+) requests late .* (\d+) devices moved", out)
    assert day is not None, out
    assert int(day[2]) > 20
    assert int(day[1]) < int(day[2]) / 2, "most answers of a day come in time, on however busy a machine"
    assert int(day[3]) >= 2, "a spot node goes in the evening and another comes in the morning"
    assert "the job goes on with" in err
    assert "tokens/s" in err
    page = (tmp_path / "runs" / "demo" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "def fibonacci(n):" in page
    assert not [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
