"""Everything that can happen to a control plane, one small step at a time, and the laws that hold after each.

The steps are chosen by hypothesis (test_conservation.py) or by a seeded generator (tests/benchmarks/conservation.py).
Small numbers name jobs and nodes: they are taken modulo how many there are, so that every number means something.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections import Counter
from pathlib import Path

from orchestrator.ledger import faults
from orchestrator.ledger.database import Database
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.mirror import Mirror
from orchestrator.ledger.states import HOLDING, Unit
from orchestrator.policy.queueing.orders import Phase
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.policy.queueing.values import LeaseState
from orchestrator.sim.outside import Physics
from orchestrator.spec import Cluster, load_text
from tests.ledger.world import World, new, sqlite

SPEC = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: test}
spec:
  pools:
  - {name: p, device: H100, market: spot, price: "3.60", capacity: {source: ray}}
  - {name: q, device: H100, market: spot, price: "1.00", capacity: {source: ray}}
  queues:
  - {name: main, quotas: [{pool: p, nominal: 6}], cohort: c, min_run: 0s}
  - {name: side, quotas: [{pool: p, nominal: 4, borrow: 4}, {pool: q, nominal: 4}], cohort: c, min_run: 5s}
  - {name: back, quotas: [{pool: p, nominal: 4}], cohort: c, min_run: 0s}
  tenants:
  - {name: red, contributions: [{pool: p, devices: 2}]}
  - {name: blue, grants: [{usd: "USD"}, {device_hours: 0.1}, {iterations: 60}]}
"""
SIZES = ((1,), (2,), (3,), (6,), (1, 2, 3, 4), (2, 4, 8), (1, 2, 4, 8))
QUEUES, TENANTS, PRIORITIES = ("main", "side", "back"), ("red", "blue"), (10, 50, 90)
NODES, DEVICES = 3, 4
MOST_JOBS = 12


class KilledError(BaseException):
    """The process died at a fault point."""


def template(folder: Path) -> Path:
    """A database that is set up, to be copied: migrations take longer than a hundred steps."""
    world = World(sqlite(folder), spec=_spec())
    world.ledger.database.close()
    return folder / "tide.db"


@functools.cache
def _spec(usd: str = "0.5") -> Cluster:
    (found,) = load_text(SPEC.replace("USD", usd))
    assert isinstance(found, Cluster)
    return found


class Machine:
    """A world with steps. `paid_ms` is device-time as an outsider counts it: devices the books knew of, by time.

    `database`: of `folder`, to be used again for the next history: its statements are compiled already.
    """

    def __init__(self, folder: Path, ready: Path, database: Database | None = None) -> None:
        for name in ("tide.db-wal", "tide.db-shm"):
            (folder / name).unlink(missing_ok=True)
        shutil.copy(ready, folder / "tide.db")
        self.states: dict[int, NodeState] = {}
        self.world = World(
            database or sqlite(folder),
            spec=_spec(),
            pools=self._pools(),
            physics=Physics(start_s=1.0, stop_s=2.0),
            is_new=False,
        )
        self.names: list[str] = []
        self.steps = self._granted = 0
        self._works: dict[str, float] = {}
        self.world.runner.work_of = self._works.__getitem__
        self.world.runner.steps_of = lambda name: int(self._works[name])
        self.paid_ms: Counter[str] = Counter()
        self._known: dict[str, tuple[int, int]] = {}

    # --- Steps -------------------------------------------------------------------------------------------------------

    def submit(self, sizes: int, queue: int, tenant: int, priority: int, work_s: int, known: bool) -> None:
        if len(self.names) < MOST_JOBS:
            name = f"j{len(self.names)}"
            job = new(
                name,
                SIZES[sizes % len(SIZES)],
                queue=QUEUES[queue % 3],
                tenant=TENANTS[tenant % 2],
                priority=PRIORITIES[priority % 3],
                work_s=float(work_s),
                steps=work_s,
                max_failures=2,
            )
            self._works[name] = float(work_s)
            self.names.append(name)
            self._try(lambda: self.world.ledger.submit(job))

    def tick(self, seconds: float) -> None:
        self.world.clock.at_s += seconds
        self._cycle()

    def cancel(self, job: int) -> None:
        self._ask(self.world.ledger.cancel, job)

    def pause(self, job: int) -> None:
        self._ask(self.world.ledger.pause, job)

    def resume(self, job: int) -> None:
        self._ask(self.world.ledger.resume, job)

    def pin(self, job: int, workers: int | None) -> None:
        self._ask(lambda name: self.world.ledger.pin(name, workers), job)

    def node(self, at: int, state: int) -> None:
        """A node is well, held back, leaving, or gone (with everybody's workers on it)."""
        at %= NODES
        states = (NodeState.OK, NodeState.HELD, NodeState.LEAVING, None)
        self.states[at] = states[state % 4]  # type: ignore[assignment]
        if self.states[at] is None:
            for lease in self._mirror.leases.rows.values():
                if any(node == f"p{at}" for node, _ in lease.nodes):
                    self.world.runner.kill(lease.holder)
        self.world.capacity.pools = self._pools()

    def kill(self, job: int, failed: bool) -> None:
        if self.names:
            self.world.runner.kill(self.names[job % len(self.names)], Phase.FAILED if failed else Phase.LOST)

    def sight(self, reachable: bool) -> None:
        self.world.runner.reachable = reachable

    def jump(self, seconds: float) -> None:
        """The clock of the orchestrator's machine is set, forwards or back; the others' go on."""
        self.world.clock.skew_s += seconds

    def restart(self) -> None:
        """All that a process knew is gone. Connections are kept: real processes die in test_crash.py."""
        self.world.ledger._forget()
        assert self.world.ledger.lead()

    def crash(self, point: int) -> None:
        """The process dies at a fault point of the next cycle, if it comes by, and another one begins."""
        name = POINTS[point % len(POINTS)]

        def die(reached: str) -> None:
            if reached == name:
                raise KilledError

        faults.hook = die
        try:
            self._cycle()
        except KilledError:
            pass
        finally:
            faults.hook = None
        self.restart()
        self._note_paid()

    # --- Laws --------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The laws, in memory after every step and in the database after every fiftieth."""
        self.steps += 1
        mirror = self._mirror
        for unit in Unit:
            total = sum(row.balance for row in mirror.accounts.rows.values() if row.unit is unit)
            assert total == 0, f"{unit} accounts sum to {total}"
        leased: Counter[str] = Counter()
        holders: set[str] = set()
        for lease in mirror.leases.rows.values():
            leased[lease.pool] += lease.devices
            assert lease.holder in mirror.jobs.rows, f"lease {lease.id} has no holder"
            if lease.state is LeaseState.HELD:
                holders.add(lease.holder)
        for meter in mirror.meters.rows.values():
            assert leased[meter.pool] == meter.leased <= meter.observed, meter
        assert holders == {row.id for row in mirror.jobs.rows.values() if row.state in HOLDING}
        self._check_outside()
        if self.steps % 50 == 0:
            self.check_books()

    def _check_outside(self) -> None:
        """Nothing runs for which nothing is leased."""
        for job, workers in self.world.runner.workers().items():
            devices = sum(lease.devices for lease in self._mirror.leases.of(job))
            assert workers <= devices, f"{job} runs {workers} workers on {devices} leased devices"

    def check_books(self) -> None:
        """Everything in the database, what memory says of it, and the outsider's count."""
        assert self.world.broken() == []
        fresh = Mirror()
        with self.world.ledger.database.reading() as connection:
            fresh.load(connection, self._mirror.facts)
        for name in SHELVES:
            assert getattr(fresh, name).rows == getattr(self._mirror, name).rows, f"memory of {name} is not what is"
        assert (fresh.waiting, fresh.holding) == (self._mirror.waiting, self._mirror.holding)
        for pool, meter in self._mirror.meters.rows.items():
            booked = -self.world.ledger.read.balances(Unit.DEVICE_MS).get(f"paid:{pool}", 0)
            open_ms = meter.observed * (self._mirror.clock_ms - meter.since_ms)
            assert booked + open_ms == self._paid_until(str(pool)), f"{pool}: paid is not devices by time"

    def finish(self) -> None:
        """When everything is well again, every job comes to an end, and nothing is open any more."""
        world = self.world
        world.runner.reachable = True
        self.states, world.clock.skew_s = {}, 0.0
        world.capacity.pools = self._pools()
        for name in self.names:
            self._try(lambda name=name: world.ledger.resume(name))
            self._try(lambda name=name: world.ledger.pin(name, None))
        for _ in range(400):
            if not self._mirror.jobs.rows:
                break
            self.tick(10.0)
            self._top_up()
        ended = {row.id: row.state.value for row in world.ledger.read.jobs()}
        assert set(ended) == set(self.names), "a job that was accepted is not there"
        assert set(ended.values()) <= {"succeeded", "failed", "cancelled"}, ended
        assert (world.held(), world.runner.workers()) == ({}, {})
        self.check_books()
        balances = world.ledger.read.balances(Unit.DEVICE_MS)
        left = {name: left for name, left in balances.items() if left and name.split(":")[0] in ("open", "held")}
        assert left == {}, "device-time that nobody accounts for"

    def _top_up(self) -> None:
        """Whoever has spent its grant waits for good: another one is granted."""
        if any(row.reason in ("BudgetReserved", "BudgetExhausted") for row in self._mirror.jobs.rows.values()):
            self._granted += 1
            self.world.ledger.apply(_spec(f"{self._granted}.5"))

    # --- Inside ------------------------------------------------------------------------------------------------------

    @property
    def _mirror(self) -> Mirror:
        return self.world.ledger._mirror

    def _pools(self) -> tuple[Pool, ...]:
        nodes = tuple(
            Node(name=f"p{at}", devices=DEVICES, state=self.states.get(at, NodeState.OK))
            for at in range(NODES)
            if self.states.get(at, NodeState.OK) is not None
        )
        common = {"resource": "GPU", "device": "H100"}
        return (
            Pool(name="p", nodes=nodes, micro_usd_per_device_hour=3_600_000, **common),
            Pool(name="q", nodes=(Node(name="q0", devices=6),), micro_usd_per_device_hour=1_000_000, **common),
        )

    def _cycle(self) -> None:
        self.world.cycle()
        self._note_paid()

    def _note_paid(self) -> None:
        """Count what the books have known of until now, and what they know of from now on."""
        now_ms = self._mirror.clock_ms
        for pool, meter in self._mirror.meters.rows.items():
            observed, since_ms = self._known.get(str(pool), (meter.observed, meter.since_ms))
            # The number that was known until the meter was read last, and the new one since.
            changed_ms = meter.since_ms if meter.observed != observed else now_ms
            self.paid_ms[str(pool)] += observed * (changed_ms - since_ms) + meter.observed * (now_ms - changed_ms)
            self._known[str(pool)] = (meter.observed, now_ms)

    def _paid_until(self, pool: str) -> int:
        if pool not in self._known:
            return 0
        observed, since_ms = self._known[pool]
        return self.paid_ms[pool] + observed * (self._mirror.clock_ms - since_ms)

    def _ask(self, what, job: int) -> None:
        if self.names:
            self._try(lambda: what(self.names[job % len(self.names)]))

    def _try(self, what) -> None:
        # A request that is refused changes nothing: the laws are checked all the same.
        with contextlib.suppress(LedgerError):
            what()


SHELVES = ("jobs", "attempts", "leases", "meters", "accounts", "orders", "recents", "claims", "promises", "tempos")
POINTS = (
    "record:before-commit",
    "record:after-commit",
    "commit:before-commit",
    "commit:after-commit",
    "outbox:asked",
    "sent:before-commit",
    "sent:after-commit",
)
