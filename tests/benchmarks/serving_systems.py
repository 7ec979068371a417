"""Start and stop the systems under test, and send them a load from a client process on the other core."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.benchmarks.serving_loads import BATCH_SHAPE, Load

ENGINE_CORE, CLIENT_CORE = 0, 1
SLOTS = 32
# The best of the grid below on a quiet machine (--tune measures it again); `None` = Serve's defaults.
TUNED = {"max_batch_size": 8, "batch_wait_timeout_s": 0.02}
GRID = tuple(
    {"max_batch_size": size, "batch_wait_timeout_s": wait_s}
    for size, wait_s in ((4, 0.0), (8, 0.0), (8, 0.02), (16, 0.0), (32, 0.0))
)
_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to serve: its module and what its server process is told. `is_foreign`: it needs packages that the
    project's environment does not have."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    options: dict[str, Any]
    batch_prefix: str = ""
    is_foreign: bool = False


_OURS = {"slots": SLOTS, "precision": "fp32", "on_ray": False}
SYSTEMS = {
    system.name: system
    for system in (
        System(name="ours", module="serving_ours", options=_OURS),
        System(name="ours-int8", module="serving_ours", options={**_OURS, "precision": "int8"}),
        System(name="ours-on-serve", module="serving_ours", options={**_OURS, "on_ray": True}),
        System(name="serve-batch", module="serving_rivals", arguments=("serve-batch",), options={"batching": None}),
        System(
            name="serve-batch-tuned", module="serving_rivals", arguments=("serve-batch",), options={"batching": TUNED}
        ),
        System(
            name="serve-split-nice19", module="serving_rivals", arguments=("serve-split",),
            options={"batching": TUNED}, batch_prefix="/batch",
        ),
        System(name="bentoml", module="serving_bentoml", options={"batching": TUNED}, is_foreign=True),
        System(name="litserve", module="serving_litserve", options={"batching": TUNED}, is_foreign=True),
        System(name="fastapi-torch", module="serving_rivals", arguments=("fastapi",), options={}),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A system that answers."""

    urls: dict[str, str]
    workdir: Path

    def send(self, load: Load, *, seed: int) -> list[dict[str, Any]]:
        """Run a load against it from the client's core; returns one record per request."""
        plan, result = self.workdir / "plan.json", self.workdir / "result.json"
        shape = {"urls": self.urls, "seed": seed, "batch_shape": BATCH_SHAPE}
        plan.write_text(json.dumps({**asdict(load), **shape}))
        command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "tests.benchmarks.serving_client"]
        subprocess.run([*command, str(plan), str(result)], check=True, cwd=_ROOT)
        records: list[dict[str, Any]] = json.loads(result.read_text())
        return records

    def tune(self, settings: dict[str, Any]) -> None:
        """Set a rival's batching."""
        httpx.post(f"{self.urls['keystroke']}/tune", json=settings).raise_for_status()


def tuned(system: System, tuning: Sequence[Mapping[str, Any]] | None) -> System:
    """The system with the setting of the grid whose keystrokes were fastest, if it has such settings."""
    if not tuning or not system.options.get("batching"):
        return system
    best = min(tuning, key=lambda found: (found["keystroke_p99_s"] or math.inf, -found["batch_tokens_per_s"]))
    return replace(system, options={**system.options, "batching": {name: best[name] for name in TUNED}})


class StartError(Exception):
    """A system that does not answer; says what it printed last."""


@contextlib.contextmanager
def running(system: System, workdir: Path, folder: Path, foreign_python: str | None = None) -> Iterator[Running]:
    """The system, started and answering; it and all its children are killed on leaving. Raises: StartError."""
    if system.is_foreign and foreign_python is None:
        raise StartError("needs --rivals-python: an interpreter that has its packages and ours")
    workdir.mkdir(parents=True, exist_ok=True)
    port, ready = _free_port(), workdir / "ready"
    config = {"port": port, "ready": str(ready), "folder": str(folder), "engine_core": ENGINE_CORE,
              "client_core": CLIENT_CORE, **system.options}  # fmt: skip
    (workdir / "config.json").write_text(json.dumps(config))
    python = foreign_python if system.is_foreign and foreign_python else sys.executable
    command = [python, "-m", f"tests.benchmarks.{system.module}", *system.arguments]
    with (workdir / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, str(workdir / "config.json")], cwd=_ROOT, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, ready, url, workdir)
        urls = {"keystroke": url, "interactive": url, "batch": url + system.batch_prefix}
        yield Running(urls=urls, workdir=workdir)
    finally:
        _kill(process)


def _wait(process: subprocess.Popen[bytes], ready: Path, url: str, workdir: Path) -> None:
    body = {"model": "bench", "prompt": "warm up", "max_tokens": 4, "temperature": 0}
    deadline_s, last = time.monotonic() + _START_TIMEOUT_S, "no answer"
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if ready.exists():
                answer = httpx.post(f"{url}/v1/completions", json=body, timeout=30)
                if answer.status_code == 200:
                    return
                last = f"{answer.status_code} {answer.text[:300]}"
        time.sleep(0.1)
    raise StartError(f"the system did not start: {last}; ...{(workdir / 'output.txt').read_text()[-1500:]}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and what it started; Ray's daemons sit in sessions of their own but stay its descendants."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    if process.poll() is None:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
