"""The application over a real ledger and a virtual outside; cycles run when a test says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from jobs.code.store import CodeStore
from orchestrator.api.app import create_app
from orchestrator.api.audit import AuditLog
from orchestrator.api.guard import Entrance, Guard
from orchestrator.api.service import Service
from orchestrator.api.watch import WatchedLedger
from orchestrator.cycle import Ports, run_cycle
from orchestrator.ledger.keys import Role
from orchestrator.service.logs import FileLogArchive
from orchestrator.service.loop import LoopHealth
from tests.ledger.world import World, cluster, sqlite

CLUSTER = """
  - {name: red-only, quotas: [{pool: p, nominal: 4}], tenants: [red], min_run: 0s}
  tenants:
  - {name: red, role: operator}
  - {name: blue, role: operator}
  - {name: house, role: admin}
  windows:
  - {name: night, start: "22:00", end: "06:00", timezone: Europe/Berlin}
"""


@dataclass
class StoodLoop:
    """A control loop that stands still."""

    woken: int = 0
    state: LoopHealth = field(
        default_factory=lambda: LoopHealth(leading=True, cycles=1, last_cycle_at_s=1_000_000.0, last_error=None)
    )

    def wake(self) -> None:
        self.woken += 1

    def health(self) -> LoopHealth:
        return self.state


@dataclass
class ApiWorld:
    """`client` is the owner's; `keyed(...)` makes clients with keys."""

    folder: Path
    extra: str = CLUSTER
    entrance: Entrance = Entrance.SOCKET

    def __post_init__(self) -> None:
        self.world = World(sqlite(self.folder), spec=cluster(self.extra))
        self.logs = FileLogArchive(self.folder / "logs")
        self.loop = StoodLoop()
        self.audit_path = self.folder / "audit.jsonl"
        self.watched = WatchedLedger(self.world.ledger)
        self.service = Service(
            self.world.ledger,
            self.watched,
            self.loop,
            self.logs,
            clock=self.world.clock.now_s,
            audit=AuditLog(self.audit_path),
            code=CodeStore(self.folder / "home"),
        )
        self.app = create_app(self.service)
        self.door = Guard(self.app, self.service, self.entrance, owner="tester")

    def cycle(self) -> None:
        world = self.world
        run_cycle(
            Ports(
                clock=world.clock,
                capacity=world.capacity,
                endpoints=world.endpoints,
                ledger=self.watched,
                runner=world.runner,
            )
        )

    def run(self, seconds: float) -> None:
        end_s = self.world.clock.at_s + seconds
        self.cycle()
        while self.world.clock.at_s < end_s:
            self.world.clock.at_s += 1.0
            self.cycle()

    def key(self, tenant: str, role: Role) -> str:
        """The text of a new key."""
        self.service.keys.forget()
        return self.world.ledger.issue_key(tenant, role, actor="test").text

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_path.read_text().splitlines()]

    def close(self) -> None:
        self.service.close()
        self.world.ledger.database.close()


@contextlib.contextmanager
def api_world(folder: Path, **more: Any) -> Iterator[tuple[ApiWorld, TestClient]]:
    made = ApiWorld(folder, **more)
    try:
        with TestClient(made.door, base_url="http://localhost", raise_server_exceptions=False) as client:
            yield made, client
    finally:
        made.close()


def job(name: str, **spec: Any) -> dict[str, Any]:
    """A small TrainJob; `tenant` goes into its metadata."""
    metadata = {"name": name, "tenant": spec.pop("tenant", "red")}
    body = {
        "queue": "main",
        "workers": {"min": 1, "max": 2, "resources": {"GPU": 1}},
        "task": "jobs.models.gpt:task",
        "data": {"dataset": "text@1", "seed": 7},
        "batch": {"global_batch_size": 8, "micro_batch_size": 1},
        "steps": 100,
    }
    return {"apiVersion": "tideline/v1", "kind": "TrainJob", "metadata": metadata, "spec": body | spec}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
