"""Kill -9 of replicas and store at random points of a batch: is a row lost, or answered twice?

`python -m tests.benchmarks.batch_crash [--quick] [--seed N]`

Two replicas (real HTTP servers, each with its own engine and runner) share one store. A kill of a replica is SIGKILL to
one of them. SQLite has no server, its store is code in each process: a kill of the store is SIGKILL to all of them at
once. With PostgreSQL (second run, where it is installed) it is SIGKILL to every process of the database server. What
was killed starts again at once. The first kills hit the upload and the submission, which are repeated under one
Idempotency-Key; the others come when a random number of rows is done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.batch.database import sqlite_url
from tests.benchmarks.batch_server import MODEL, RETRIES
from tests.benchmarks.harness import print_result, read_options, say
from tests.serving.batch.postgres import Postgres, is_installed, running_postgres

_STEP_S = 0.004
_TOKENS = 12
_EARLY_KILLS = 3
_NUM_REPLICAS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run does."""

    rows: int
    kills: int
    lease_s: float
    seed: int


class Cluster:
    """The replicas, and what a kill of the store means."""

    def __init__(self, url: str, lease_s: float, postgres: Postgres | None) -> None:
        self._url = url
        self._lease_s = lease_s
        self._postgres = postgres
        self._ports = [_free_port() for _ in range(_NUM_REPLICAS)]
        self._processes = [self._start(port) for port in self._ports]
        self.killed: Counter[str] = Counter()

    def kill_replica(self, index: int) -> None:
        self._kill([index])
        self.killed["replica"] += 1

    def kill_store(self) -> None:
        if self._postgres is None:
            self._kill(range(_NUM_REPLICAS))
        else:
            self._postgres.kill()
            self._postgres.start()
        self.killed["store"] += 1

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Of whichever replica answers; tries until one does."""
        while True:
            for port in self._ports:
                with contextlib.suppress(httpx.TransportError):
                    response = httpx.request(method, f"http://127.0.0.1:{port}{path}", timeout=60.0, **request)
                    if response.status_code not in (500, 502, 503):
                        return response
            time.sleep(0.02)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _kill(self, indexes: Any) -> None:
        for index in indexes:
            self._processes[index].send_signal(signal.SIGKILL)
        for index in indexes:
            self._processes[index].wait()
            self._processes[index] = self._start(self._ports[index])

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        arguments = [self._url, str(port), str(self._lease_s), str(_STEP_S)]
        return subprocess.Popen([sys.executable, "-m", "tests.benchmarks.batch_server", *arguments],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def run(url: str, plan: Plan, postgres: Postgres | None = None) -> dict[str, Any]:
    """One batch with all its kills; every figure is read back over HTTP."""
    draw, cluster, start_s = random.Random(plan.seed), Cluster(url, plan.lease_s, postgres), time.monotonic()
    try:
        batch_id = _submit(cluster, plan, draw)
        for point in sorted(draw.randrange(plan.rows) for _ in range(plan.kills - cluster.killed.total())):
            _wait_until(cluster, batch_id, point)
            time.sleep(draw.uniform(0.0, 0.2))
            _kill_one(cluster, draw)
            say(f"kill {cluster.killed.total()} at {point} rows ({dict(cluster.killed)})")
        batch = _wait_until(cluster, batch_id, plan.rows)
        return {**_check(cluster, batch, plan), "kills": dict(cluster.killed), "wall_s": time.monotonic() - start_s}
    finally:
        cluster.stop()


def _submit(cluster: Cluster, plan: Plan, draw: random.Random) -> str:
    """Upload and submit while the first kills fall."""
    with _meanwhile(lambda: _early_kills(cluster, draw)):
        once = {"Idempotency-Key": "upload"}
        form = {"files": {"file": ("in.jsonl", _input(plan.rows))}, "data": {"purpose": "batch"}}
        file = cluster.ask("POST", "/v1/files", headers=once, **form)
        assert file.status_code == 200, file.text
        body = {"input_file_id": file.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = cluster.ask("POST", "/v1/batches", headers={"Idempotency-Key": "batch"}, json=body)
        assert batch.status_code == 200, batch.text
    listed = (
        cluster.ask("GET", "/v1/batches").json()["data"],
        cluster.ask("GET", "/v1/files?purpose=batch").json()["data"],
    )
    assert [len(each) for each in listed] == [1, 1], "the submission was doubled"
    return str(batch.json()["id"])


def _early_kills(cluster: Cluster, draw: random.Random) -> None:
    for _ in range(_EARLY_KILLS):
        time.sleep(draw.uniform(0.2, 2.0))
        _kill_one(cluster, draw)


def _kill_one(cluster: Cluster, draw: random.Random) -> None:
    if draw.random() < 0.5:
        cluster.kill_store()
    else:
        cluster.kill_replica(draw.randrange(_NUM_REPLICAS))


def _wait_until(cluster: Cluster, batch_id: str, num_rows: int) -> dict[str, Any]:
    while True:
        batch: dict[str, Any] = cluster.ask("GET", f"/v1/batches/{batch_id}").json()
        counts = batch["request_counts"]
        if counts["completed"] + counts["failed"] >= num_rows or batch["status"] != "in_progress":
            return batch
        time.sleep(0.02)


def _input(num_rows: int) -> bytes:
    rows = []
    for index in range(num_rows):
        body = {"model": MODEL, "prompt": f"{index};", "max_tokens": _TOKENS}
        rows.append({"custom_id": f"row-{index}", "method": "POST", "url": "/v1/completions", "body": body})
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _check(cluster: Cluster, batch: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Every row must have one answer, the right one; a row in the error file has none."""
    assert batch["status"] == "completed", batch
    seen: Counter[str] = Counter()
    right = set()
    for file_id in (batch["output_file_id"], batch["error_file_id"]):
        text = cluster.ask("GET", f"/v1/files/{file_id}/content").text if file_id else ""
        for row in map(json.loads, text.splitlines()):
            name = row["custom_id"]
            seen[name] += 1
            prompt = name.removeprefix("row-") + ";"
            if row["response"] and row["response"]["body"]["choices"][0]["text"] == (prompt * _TOKENS)[:_TOKENS]:
                right.add(name)
    return {
        "rows": plan.rows,
        "lost": plan.rows - len(right),
        "doubled": sum(count - 1 for count in seen.values()),
        "request_counts": batch["request_counts"],
    }


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--seed", type=int, default=1)
    options = read_options(__doc__ or "", extra=extra)
    size = {"rows": 300, "kills": 5, "lease_s": 2.0} if options.quick else {"rows": 10_000, "kills": 50, "lease_s": 5.0}
    plan = Plan(**size, seed=options.rest.seed)
    with tempfile.TemporaryDirectory() as folder:
        say("SQLite")
        result = run(sqlite_url(Path(folder) / "batches.sqlite3"), plan)
    other = None
    if is_installed():
        say("PostgreSQL")
        with running_postgres() as server:
            other = run(server.url, plan, server)
    settings = {
        "replicas": _NUM_REPLICAS,
        "lease_s": plan.lease_s,
        "retries": RETRIES,
        "step_s": _STEP_S,
        "seed": plan.seed,
    }
    print_result(
        {"benchmark": "batch_crash", **result, "store": "sqlite", "postgresql": other, "settings": settings},
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
