"""The audit log's file: whole lines, its owner's alone, turned when it is full."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from orchestrator.api import audit
from orchestrator.api.audit import AuditLog


def test_a_full_file_is_kept_under_a_number_and_no_line_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_MAX_FILE_BYTES", 60)
    path = tmp_path / "logs" / "audit.jsonl"
    for number in range(2):  # also when it is opened again
        log = AuditLog(path)
        for at in range(3):
            log.write(number=10 * number + at, path="/api/v1/jobs")
        log.close()
    files = sorted(path.parent.iterdir(), reverse=True)
    found = [json.loads(line)["number"] for file in files for line in file.read_text().splitlines()]
    assert found == [0, 1, 2, 10, 11, 12]
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_nothing_is_written_after_it_was_closed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.close()
    log.write(number=1)
    log.close()
    assert (tmp_path / "audit.jsonl").read_text() == ""
