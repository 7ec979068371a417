"""Kueue's three published loads in real time, through the real ledger and cycle; jobs are timers, as in its own test.

Queues have a quota of 20 units and borrow up to 100 in their cohort; idle quota is reclaimed from whoever borrows, and
lower classes of a queue are preempted. In the topology case a unit is a CPU, workers take half, 1.25 or 2.5 of them on
nodes of 96, and two thirds must sit within one rack of 64 (Kueue's third kind, balanced over nodes, is packed here).
"""

from __future__ import annotations

import gc
import heapq
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.cycle import Ports, run_cycle
from orchestrator.ledger.facts import DEFAULT_RULES
from orchestrator.ledger.reading import JobFilter
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import JobShape
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.submission import NewJob
from orchestrator.policy.queueing.decisions import Admit, Evict
from orchestrator.policy.queueing.orders import Order, Phase, Report
from orchestrator.policy.queueing.parties import Reach
from orchestrator.policy.queueing.places import Node, Pool, flat_pool
from orchestrator.policy.queueing.values import Coupling
from orchestrator.spec import Cluster, load_text
from tests.benchmarks.harness import say

_QUOTA, _BORROW = 20, 100
_COUPLINGS = (Coupling.TIGHT, Coupling.LOOSE, Coupling.TIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One class of jobs in every queue: `count` of them, one `every_s`; each runs for `runs_s` on `units`."""

    count: int
    every_s: float
    runs_s: float
    units: int
    priority: int
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load, and Kueue's measured means. `parts`: devices that make one unit; `racks` of 64 nodes of 96 units."""

    cohorts: int
    queues: int
    kinds: dict[str, Kind]
    published: dict[str, object]
    parts: int = 1
    racks: int = 0

    @property
    def units(self) -> int:
        """Units of all quotas."""
        return self.cohorts * self.queues * _QUOTA

    @property
    def fluid_bound_s(self) -> float:
        """The time below which nobody can be: all work at all units, or the last arrival and its run."""
        work = sum(one.count * one.runs_s * one.units for one in self.kinds.values()) * self.cohorts * self.queues
        last_s = max((one.count - 1) * one.every_s + one.runs_s for one in self.kinds.values())
        return max(work / self.units, last_s)


_SMALL = Kind(count=350, every_s=0.1, runs_s=0.2, units=1, priority=50)
_MEDIUM = Kind(count=100, every_s=0.5, runs_s=0.5, units=5, priority=100)
_LARGE = Kind(count=50, every_s=1.2, runs_s=1.0, units=20, priority=200)
CASES = {
    "baseline": Case(
        cohorts=5,
        queues=6,
        kinds={"small": _SMALL, "medium": _MEDIUM, "large": _LARGE},
        published={"wall_s": 351, "usage": 0.559, "admission_s": {"large": 16.5, "medium": 76.8, "small": 215}},
    ),
    "large": Case(
        cohorts=10,
        queues=100,
        kinds={
            "small": Kind(count=35, every_s=0.06, runs_s=0.15, units=1, priority=50),
            "medium": Kind(count=11, every_s=0.3, runs_s=0.35, units=5, priority=100),
            "large": Kind(count=4, every_s=0.7, runs_s=0.7, units=20, priority=200),
        },
        published={"wall_s": 1179, "usage": 0.386, "admission_s": {"large": 105.6, "medium": 256, "small": 700}},
    ),
    "topology": Case(
        cohorts=5,
        queues=6,
        kinds={
            "small": replace(_SMALL, workers=2),
            "medium": replace(_MEDIUM, workers=4),
            "large": replace(_LARGE, workers=8),
        },
        published={"wall_s": 401, "usage": 0.624},
        parts=4,
        racks=10,
    ),
}


class Timers:
    """Every port in one: a runner whose jobs are timers, and the pools of a case."""

    def __init__(self, case: Case) -> None:
        self.pools, self.kinds = _pools(case), case.kinds
        self.going: dict[str, int] = {}
        self.ended: dict[tuple[str, int], Report] = {}
        self.heap: list[tuple[float, str, int]] = []
        self.admitted_s: dict[str, float] = {}

    def now_s(self) -> float:
        return time.time()

    def headroom(self) -> dict[str, int]:
        return {}

    def urgent(self) -> dict[str, int]:
        return {}

    def passing(self) -> dict[str, int]:
        return {}

    def owed(self) -> dict[str, tuple[tuple[str, int], ...]]:
        return {}

    def observe(self) -> tuple[Pool, ...]:
        return self.pools

    def ask(self, order: Order) -> None:
        job, now_s = order.what.job, time.time()
        if isinstance(order.what, Admit):
            self.admitted_s.setdefault(job, now_s)
            self.going[job] = order.attempt
            heapq.heappush(self.heap, (now_s + self.kinds[_kind(job)].runs_s, job, order.attempt))
        elif isinstance(order.what, Evict):
            self.going.pop(job, None)
            self.ended[job, order.attempt] = Report(job=job, attempt=order.attempt, phase=Phase.STOPPED)

    def reports(self) -> tuple[Report, ...]:
        now_s = time.time()
        while self.heap and self.heap[0][0] <= now_s:
            _, job, attempt = heapq.heappop(self.heap)
            if self.going.get(job) == attempt:
                del self.going[job]
                self.ended[job, attempt] = Report(job=job, attempt=attempt, phase=Phase.SUCCEEDED, steps_done=1)
        return tuple(self.ended.values())

    def acknowledge(self, ended) -> None:
        for report in ended:
            self.ended.pop((report.job, report.attempt), None)


def kueue(folder: Path, name: str, *, share: float = 1.0) -> dict[str, object]:
    """One case: wall time, usage, and mean time to admission by class, beside Kueue's and the fluid bound."""
    case = CASES[name]
    ledger, timers = _ledger(folder / f"kueue-{name}.db", case), Timers(case)
    arrivals = _arrivals(case, share)
    gc.collect()
    gc.freeze()
    began_s = time.time()
    submitted_s, num_cycles = _run(ledger, timers, arrivals, name)
    wall_s = time.time() - began_s
    gc.unfreeze()
    work = sum(case.kinds[_kind(job.name)].runs_s * case.kinds[_kind(job.name)].units for _, job in arrivals)
    waits: dict[str, list[float]] = defaultdict(list)
    for job, at_s in timers.admitted_s.items():
        waits[_kind(job)].append(at_s - submitted_s[job])
    preemptions = sum(row.preemptions for row in ledger.read.jobs(JobFilter(limit=1_000_000)))
    ledger.close()
    return {
        "wall_s": round(wall_s, 1),
        "fluid_bound_s": round(case.fluid_bound_s, 1),
        "usage": round(work / (wall_s * case.units), 3),
        "admission_s": {kind: round(sum(found) / len(found), 2) for kind, found in sorted(waits.items())},
        "workloads": len(arrivals),
        "preemptions": preemptions,
        "cycles": num_cycles,
        "published": case.published,
    }


def _run(
    ledger: Ledger, timers: Timers, arrivals: list[tuple[float, NewJob]], name: str
) -> tuple[dict[str, float], int]:
    """Submit when it is due, cycle after cycle, until nobody is left; when each was submitted, and cycles."""
    ports = Ports(clock=timers, capacity=timers, endpoints=timers, ledger=ledger, runner=timers)
    submitted_s: dict[str, float] = {}
    began_s = told_s = time.time()
    number = num_cycles = 0
    while number < len(arrivals) or ledger._mirror.jobs.rows:
        now_s, due = time.time() - began_s, []
        while number < len(arrivals) and arrivals[number][0] <= now_s:
            due.append(arrivals[number][1])
            number += 1
        if due:
            ledger.submit(*due)
            submitted_s |= dict.fromkeys((job.name for job in due), time.time())
        ledger.lead()
        run_cycle(ports)
        num_cycles += 1
        if time.time() - told_s > 10:
            told_s, waiting = time.time(), len(ledger._mirror.waiting)
            say(f"kueue {name}: {now_s:.0f} s, {number} submitted, {waiting} wait, {num_cycles} cycles")
    return submitted_s, num_cycles


def _ledger(path: Path, case: Case) -> Ledger:
    near = Reach(min_bandwidth_bytes_per_s=5e9)
    rules = replace(
        DEFAULT_RULES, tight=near, modular=near, drain_grace_s=1.0, unknown_run_s=1.0, max_starts=case.units
    )
    ledger = Ledger(f"sqlite:///{path}", holder="bench", clock=time.time, rules=rules)
    upgrade(ledger.database)
    ledger.lead()
    ledger.apply(_cluster(case))
    return ledger


def _kind(job: str) -> str:
    return job.partition("-")[0]


def _arrivals(case: Case, share: float) -> list[tuple[float, NewJob]]:
    found = []
    for cohort in range(case.cohorts):
        for queue in range(case.queues):
            for name, kind in case.kinds.items():
                for at in range(max(1, int(kind.count * share))):
                    shape = JobShape(
                        sizes=(kind.workers,),
                        devices_per_worker=kind.units * case.parts // kind.workers,
                        coupling=_COUPLINGS[at % len(_COUPLINGS)] if case.racks else Coupling.TIGHT,
                        work_s=kind.runs_s * kind.workers,
                        max_failures=0,
                    )
                    job = NewJob(
                        name=f"{name}-{cohort}-{queue}-{at}",
                        queue=f"q{cohort}-{queue}",
                        priority=kind.priority,
                        shape=shape,
                    )
                    found.append((kind.every_s * at, job))
    return sorted(found, key=lambda one: (one[0], one[1].name))


def _pools(case: Case) -> tuple[Pool, ...]:
    """A flat pool for each cohort, or one with racks for all."""
    if not case.racks:
        return tuple(
            flat_pool(f"c{at}", case.queues * _QUOTA, micro_usd_per_device_hour=1_000_000) for at in range(case.cohorts)
        )
    nodes = tuple(
        Node(name=f"r{rack}n{at}", devices=96 * case.parts, place=("block", f"rack{rack}"))
        for rack in range(case.racks)
        for at in range(64)
    )
    return (Pool(name="racks", resource="GPU", device="gpu", micro_usd_per_device_hour=1_000_000, nodes=nodes),)


def _cluster(case: Case) -> Cluster:
    like = 'device: unit, market: on_demand, price: "1", capacity: {source: ray}'
    pools = [f"  - {{name: {pool.name}, {like}}}" for pool in _pools(case)]
    slow = "bandwidth_per_s: 1GB"
    levels = f"  levels: [{{name: block, {slow}}}, {{name: rack, {slow}}}]" if case.racks else "  levels: []"
    quota = f"nominal: {_QUOTA * case.parts}, borrow: {_BORROW * case.parts}"
    queues = [
        f"  - {{name: q{cohort}-{at}, cohort: c{cohort}, min_run: 0s, "
        f"quotas: [{{pool: {'racks' if case.racks else f'c{cohort}'}, {quota}}}]}}"
        for cohort in range(case.cohorts)
        for at in range(case.queues)
    ]
    head = ["apiVersion: tideline/v1", "kind: Cluster", "metadata: {name: kueue}", "spec:", levels, "  pools:"]
    (found,) = load_text("\n".join([*head, *pools, "  queues:", *queues]))
    assert isinstance(found, Cluster)
    return found
