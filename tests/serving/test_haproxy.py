"""HAProxy listens where the endpoint does and nowhere else, whatever Ray writes into its file."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from orchestrator.adapters.ray_cluster.haproxy import closed_haproxy, write_program

_OPEN = re.compile(r"^\s*bind\s+(\*|0\.0\.0\.0|::)?:", re.MULTILINE)


def started(tmp_path: Path, config: str, *more: str) -> tuple[str, list[str]]:
    """(the file, the arguments) that HAProxy sees when Ray starts it with this configuration."""
    file, stub = tmp_path / "a name.cfg", tmp_path / "stub"
    file.write_text(config)
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o700)
    program = write_program(tmp_path, str(stub))
    said = subprocess.run([program, "-db", "-f", file, *more], check=True, capture_output=True, text=True).stdout
    return file.read_text(), said.splitlines()


def test_addresses_that_ray_opens_are_this_machines_own(tmp_path: Path) -> None:
    assert len(_OPEN.findall(HAPROXY_CONFIG_TEMPLATE)) == 2  # else look at what Ray opens now
    closed, arguments = started(tmp_path, HAPROXY_CONFIG_TEMPLATE, "-sf", "12")
    assert arguments == ["-db", "-f", str(tmp_path / "a name.cfg"), "-sf", "12"]
    assert not _OPEN.search(closed)
    assert closed.count("bind 127.0.0.1:") == 2
    assert "mode 666" not in closed


def test_nothing_else_of_the_file_changes(tmp_path: Path) -> None:
    config = "frontend f\n    bind 10.0.0.7:8000\n    acl x path_beg /bind *:1\nlisten stats\n  bind *:8404\n"
    closed, _ = started(tmp_path, config)
    assert closed == config.replace("bind *:8404", "bind 127.0.0.1:8404")


def test_it_is_there_only_for_who_asks_and_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_SERVE_HAPROXY_BINARY_PATH"
    monkeypatch.setenv(name, "/bin/true")
    with closed_haproxy(tmp_path):
        assert os.environ[name] == "/bin/true"
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with closed_haproxy(tmp_path):
        program = Path(os.environ[name])
        assert program.stat().st_mode & 0o777 == 0o700
        assert "/bin/true" in program.read_text()
        assert os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"] == str(tmp_path / "ha" / "admin.sock")
    assert os.environ[name] == "/bin/true"
    assert "RAY_SERVE_HAPROXY_SOCKET_PATH" not in os.environ
