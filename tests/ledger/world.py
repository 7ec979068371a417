"""A whole control plane for tests: a real ledger, a virtual outside, one clock; restarts are a new ledger object."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.cycle import CycleReport, Ports, run_cycle
from orchestrator.ledger.check import check
from orchestrator.ledger.database import Database, open_database
from orchestrator.ledger.facts import DEFAULT_RULES
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import JobShape
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.submission import NewJob
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.sim.outside import Physics, SimCapacity, SimClock, SimEndpoints, SimRunner
from orchestrator.spec import Cluster, load_text

RULES = replace(DEFAULT_RULES, drain_grace_s=30.0)
START_S = 1_000_000.0


def cluster(text: str = "") -> Cluster:
    """One queue called main over one pool called p, two tenants, and what else is said under `spec`."""
    base = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: test}
spec:
  pools:
  - {name: p, device: H100, market: spot, price: "3.60", capacity: {source: ray}}
  queues:
  - {name: main, quotas: [{pool: p, nominal: 1000}], min_run: 0s}
"""
    (found,) = load_text(base + text)
    assert isinstance(found, Cluster)
    return found


def pool(devices: int = 8, *, nodes: int = 1, name: str = "p", lost: tuple[int, ...] = ()) -> Pool:
    """A pool of so many nodes with so many devices each, without the lost ones."""
    of = tuple(Node(name=f"{name}{at}", devices=devices, state=NodeState.OK) for at in range(nodes) if at not in lost)
    return Pool(name=name, resource="GPU", device="H100", micro_usd_per_device_hour=3_600_000, nodes=of)


def new(name: str, sizes: int | tuple[int, ...] = 1, *, work_s: float | None = 100.0, **more) -> NewJob:
    parts = {key: more.pop(key) for key in list(more) if key in JobShape.__dataclass_fields__}
    of = sizes if isinstance(sizes, tuple) else (sizes,)
    values = {"queue": "main", "tenant": "red"} | more
    return NewJob(name=name, shape=JobShape(sizes=of, work_s=work_s, **parts), **values)


@dataclass
class World:
    """`work` is what each job really has to do, whatever it says. `url`: of the database, or one that is open."""

    url: str | Database
    spec: Cluster = field(default_factory=cluster)
    pools: tuple[Pool, ...] = field(default_factory=lambda: (pool(),))
    physics: Physics = field(default_factory=Physics)
    holder: str = "one"
    is_new: bool = True
    clock: SimClock = field(default_factory=lambda: SimClock(START_S))
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.capacity, self.endpoints = SimCapacity(self.pools), SimEndpoints()
        self.runner = SimRunner(self.clock, self._work, self.physics, steps_of=self._steps)
        is_ready = self.is_new and isinstance(self.url, str) and _copied(self.url)
        self.ledger = self.open()
        if self.is_new and not is_ready:
            upgrade(self.ledger.database)
        assert self.ledger.lead()
        self.ledger.apply(self.spec)

    def open(self, holder: str | None = None) -> Ledger:
        return Ledger(self.url, holder=holder or self.holder, clock=self.clock.now_s, rules=RULES)

    def _work(self, job_id: str) -> float:
        work_s = self.ledger.read.job(job_id).shape.work_s
        return 1e9 if work_s is None else work_s

    def _steps(self, job_id: str) -> int:
        return self.ledger.read.job(job_id).shape.steps or 0

    def restart(self) -> None:
        """The process dies and another one begins."""
        self.ledger.database.close()
        self.ledger = self.open()
        assert self.ledger.lead()

    def cycle(self) -> CycleReport:
        return run_cycle(
            Ports(
                clock=self.clock,
                capacity=self.capacity,
                endpoints=self.endpoints,
                ledger=self.ledger,
                runner=self.runner,
            )
        )

    def run(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Cycles until so much time has passed."""
        end_s = self.clock.at_s + seconds
        self.cycle()
        while self.clock.at_s < end_s:
            self.clock.at_s = min(end_s, self.clock.at_s + step_s)
            self.cycle()

    def state(self, job_id: str) -> str:
        return self.ledger.read.job(job_id).state.value

    def reason(self, job_id: str) -> str | None:
        return self.ledger.read.job(job_id).reason

    def kinds(self, job_id: str) -> list[str]:
        return [event.kind for event in self.ledger.read.events(job=job_id)]

    def held(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for lease in self.ledger.read.leases():
            found[lease.holder] = found.get(lease.holder, 0) + lease.devices
        return found

    def broken(self) -> list[str]:
        with self.ledger.database.reading() as connection:
            return check(connection)


@functools.cache
def _empty() -> Path:
    """A database that is set up and holds nothing: to copy it takes a hundredth of what its migrations take."""
    folder = Path(tempfile.mkdtemp(prefix="tide-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database = open_database(sqlite(folder))
    upgrade(database)
    database.close()
    return folder / "tide.db"


def _copied(url: str) -> bool:
    """Whether the database is now a copy of an empty one: a SQLite file that was not there."""
    file = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or file.exists():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_empty(), file)
    return True


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'tide.db'}"
