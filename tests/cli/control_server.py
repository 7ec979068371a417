"""A server process with virtual devices, and `tide` in this process: what the tests of the verbs work with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.control import connect
from orchestrator.cli.main import main

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: test}
spec:
  pools:
  - {name: p, device: H100, market: spot, price: "3.60", count: 8, devices_per_node: 4, capacity: {source: ray}}
  queues:
  - {name: main, quotas: [{pool: p, nominal: 8}], min_run: 0s}
  - {name: small, quotas: [{pool: p, nominal: 2}], min_run: 0s}
  tenants: [{name: default, role: admin}, {name: stranger}]
"""
# A suite that a shell runs in the background is born with Ctrl-C ignored, and so would be what it starts.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from orchestrator.cli.main import main; main()"
)
FOREVER = 10_000_000


class Server:
    """A server process on a state folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cluster = home.parent / f"{home.name}.yaml"
        self.cluster.write_text(CLUSTER)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        arguments = ("server", "--rehearse", "--cluster", str(self.cluster), *more)
        process = spawn(self.home, *arguments)
        until_s = time.monotonic() + 60
        with connect.connected() as client:
            while not (client.answers() and client.readiness()["status"] == "ok"):
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < until_s, "the server is not ready"
                time.sleep(0.02)
        return process


def spawn(home: Path, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TIDE_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=environment, **more)


def refused(home: Path, code: int, *arguments: str) -> bytes:
    """What a server says that does not start."""
    process = spawn(home, "server", *arguments, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    return said


def tide(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a verb prints as JSON."""
    capsys.readouterr()
    assert tide(*arguments, "-o", "json") == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["apiVersion"] == "tideline/v1"
    return found


def job_file(folder: Path, name: str, **spec: Any) -> str:
    body = {
        "queue": "main",
        "workers": {"min": 1, "max": 2, "resources": {"GPU": 1}},
        "task": "jobs.models.gpt:task",
        "data": {"dataset": "text@1"},
        "batch": {"global_batch_size": 8, "micro_batch_size": 1},
        "steps": FOREVER,
    }
    document = {"apiVersion": "tideline/v1", "kind": "TrainJob", "metadata": {"name": name}, "spec": body | spec}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def until(capsys: pytest.CaptureFixture[str], name: str, state: str) -> dict[str, Any]:
    """A job once it is in a state."""
    until_s = time.monotonic() + 60
    while True:
        found = answer(capsys, "describe", name)
        if found["state"] == state:
            return found
        assert time.monotonic() < until_s, found
        time.sleep(0.05)
