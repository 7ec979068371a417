"""Durable submissions a second over HTTP: a real `tide server` process, its unix socket, clients that keep connections.

`python -m tests.benchmarks.control_http [--quick] [--folder DIR] [--repeats N]`. Every request is validated, checked
against queues, quotas and pools, given an idempotency key, and on the disk (SQLite, fsync) before its answer; the
control loop decides meanwhile about everything that was submitted before. Devices are virtual and full after the first
few jobs, so that the queue only grows. Server and clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.client.client import Client
from orchestrator.client.places import Place
from tests.benchmarks.harness import print_result, read_options, say

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: bench}
spec:
  pools: [{name: p, device: H100, market: spot, price: "2", count: 200, devices_per_node: 8, capacity: {source: ray}}]
  queues: [{name: main, quotas: [{pool: p, nominal: 200}]}]
"""
_PROGRAM = "from orchestrator.cli.main import main; main()"
_CONNECTIONS = 32


def http_submits(folder: Path, *, quick: bool) -> dict[str, object]:
    """Submissions a second: one by one over one connection, over 32, and in requests of 100 and 1,000."""
    count = 300 if quick else 6000
    with _server(folder) as (socket, process):
        found: dict[str, object] = {}
        alone = asyncio.run(_run(socket, _singles("alone", count // 10), connections=1))
        found["single_one_connection"] = alone.rate
        before_s = _cpu_s(process)
        many = asyncio.run(_run(socket, _singles("many", count), connections=_CONNECTIONS))
        found["server_cpu_ms_per_single"] = round(1000 * (_cpu_s(process) - before_s) / count, 3)
        found[f"single_connections_{_CONNECTIONS}"] = many.rate
        found["latency_ms"] = many.latency_ms
        for size in (100, 1000):
            requests = _batches(f"batch{size}", 2 * count, size)
            found[f"batches_of_{size}"] = asyncio.run(_run(socket, requests, connections=4)).rate
        with Client(Place(url="http://localhost", socket=socket)) as client:
            found["jobs_in_the_books"] = sum(one["jobs"] for one in client.get("/usage")["tenants"])
            found["readiness"] = client.readiness()["status"]
    return found


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[tuple[Path, psutil.Process]]:
    home = folder / "home"
    home.mkdir(mode=0o700)
    (folder / "cluster.yaml").write_text(CLUSTER)
    environment = {**os.environ, "TIDE_HOME": str(home)}
    environment.pop("TIDE_DATABASE", None)
    command = [sys.executable, "-c", _PROGRAM, "server", "--rehearse", "--cluster", str(folder / "cluster.yaml")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with Client(Place(url="http://localhost", socket=home / "tide.sock")) as client:
            until_s = time.monotonic() + 60
            while not (client.answers() and client.readiness()["status"] == "ok"):
                if process.poll() is not None or time.monotonic() > until_s:
                    raise RuntimeError((folder / "server.log").read_text()[-2000:])
                time.sleep(0.05)
        yield home / "tide.sock", psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _document(name: str) -> dict[str, object]:
    return {
        "apiVersion": "tideline/v1",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"team": "code"}, "description": "one of many"},
        "spec": {
            "queue": "main",
            "workers": {"min": 100, "max": 200, "resources": {"GPU": 1, "CPU": 4}},
            "task": "jobs.models.gpt:task",
            "args": {"layers": 12, "d_model": 768, "seq_len": 512},
            "data": {"dataset": "python-stdlib@latest", "seed": 7},
            "batch": {"global_batch_size": 8192, "micro_batch_size": 8},
            "steps": 1000000,
            "checkpoint": {"every": "10m", "snapshot_every_steps": 20},
        },
    }


def _singles(prefix: str, count: int) -> list[tuple[int, bytes]]:
    return [(1, _request("/api/v1/jobs", _document(f"{prefix}-{at}"), f"{prefix}-{at}")) for at in range(count)]


def _batches(prefix: str, count: int, size: int) -> list[tuple[int, bytes]]:
    found = []
    for start in range(0, count, size):
        items = [_document(f"{prefix}-{at}") for at in range(start, min(count, start + size))]
        found.append((len(items), _request("/api/v1/jobs/batch", {"items": items}, f"{prefix}-{start}")))
    return found


def _request(path: str, body: object, key: str) -> bytes:
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n"
    return f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload


class _Measured:
    def __init__(self, jobs: int, seconds: float, latencies_s: list[float]) -> None:
        self.rate = round(jobs / seconds, 1)
        ordered = sorted(latencies_s)
        self.latency_ms = {
            "p50": round(1000 * statistics.median(ordered), 2),
            "p99": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        }


async def _run(socket: Path, requests: list[tuple[int, bytes]], *, connections: int) -> _Measured:
    """Send all requests over so many connections, each its next one when the one before was answered."""
    left, latencies = iter(requests), list[float]()

    async def one() -> None:
        reader, writer = await asyncio.open_unix_connection(str(socket))
        for _, request in left:
            began_s = time.perf_counter()
            writer.write(request)
            status = await _answer(reader)
            latencies.append(time.perf_counter() - began_s)
            if status != 201:
                raise RuntimeError(f"a submission was answered {status}")
        writer.close()

    began_s = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return _Measured(sum(jobs for jobs, _ in requests), time.perf_counter() - began_s, latencies)


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
    await reader.readexactly(length)
    return int(lines[0].split()[1])


def main() -> None:
    """Run and print one JSON object."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--folder", type=Path, help="where the database is made")
    extra.add_argument("--repeats", type=int, default=1, help="how often, each with a server and books of its own")
    options = read_options(__doc__ or "", extra=extra)
    runs = []
    for _ in range(options.rest.repeats):
        with tempfile.TemporaryDirectory(dir=options.rest.folder) as name:
            runs.append(http_submits(Path(name), quick=options.quick))
        say(str(runs[-1]))
    print_result({"benchmark": "control_http", **runs[-1], "repeats": _over(runs)}, quick=options.quick)


def _over(runs: list[dict[str, object]]) -> dict[str, object]:
    """Median, least and most of every figure that is one number."""
    found: dict[str, object] = {"runs": len(runs)}
    for name, value in runs[0].items():
        if isinstance(value, float):
            every = [float(str(run[name])) for run in runs]
            found[name] = {"median": round(statistics.median(every), 3), "range": [min(every), max(every)]}
    return found


if __name__ == "__main__":
    main()
