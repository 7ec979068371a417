"""Kueue's baseline load in real time, through the real ledger and the real cycle; jobs are timers, as in its own test.

5 cohorts x 6 queues with a quota of 20 units, borrowing up to 100, reclaim from any, lower classes of a queue are
preempted: 15,000 workloads, 39,600 unit-seconds on 600 units, so that nobody can need less than 66 s.
"""

from __future__ import annotations

import gc
import heapq
import time
from collections import defaultdict
from dataclasses import replace
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
from orchestrator.policy.queueing.places import Pool, flat_pool
from orchestrator.spec import Cluster, load_text
from tests.benchmarks.harness import say

FLUID_BOUND_S = 66.0
BASELINE = {"wall_s": 351, "usage": 0.559, "admission_s": {"large": 16.5, "medium": 76.8, "small": 215}}
"""Kueue's measured means."""
_CLASSES = {
    # count a queue, one every s, runs for s, units, priority
    "small": (350, 0.100, 0.200, 1, 50),
    "medium": (100, 0.500, 0.500, 5, 100),
    "large": (50, 1.200, 1.000, 20, 200),
}
_COHORTS, _QUEUES = 5, 6


class Timers:
    """Every port in one: a runner whose jobs are timers, and one pool for each cohort."""

    def __init__(self) -> None:
        self.pools = tuple(
            flat_pool(f"c{at}", _QUEUES * 20, micro_usd_per_device_hour=1_000_000) for at in range(_COHORTS)
        )
        self.going: dict[str, tuple[int, float, float]] = {}
        self.ended: dict[tuple[str, int], Report] = {}
        self.heap: list[tuple[float, str, int]] = []
        self.admitted_s: dict[str, float] = {}

    def now_s(self) -> float:
        return time.time()

    def headroom(self) -> dict[str, int]:
        return {}

    def observe(self) -> tuple[Pool, ...]:
        return self.pools

    def ask(self, order: Order) -> None:
        job, now_s = order.what.job, time.time()
        if isinstance(order.what, Admit):
            ends_s = now_s + _CLASSES[_kind(job)][2]
            self.admitted_s.setdefault(job, now_s)
            self.going[job] = (order.attempt, now_s, ends_s)
            heapq.heappush(self.heap, (ends_s, job, order.attempt))
        elif isinstance(order.what, Evict):
            self.going.pop(job, None)
            self.ended[job, order.attempt] = Report(job=job, attempt=order.attempt, phase=Phase.STOPPED)

    def reports(self) -> tuple[Report, ...]:
        now_s = time.time()
        while self.heap and self.heap[0][0] <= now_s:
            _, job, attempt = heapq.heappop(self.heap)
            if job in self.going and self.going[job][0] == attempt:
                del self.going[job]
                self.ended[job, attempt] = Report(job=job, attempt=attempt, phase=Phase.SUCCEEDED, steps_done=1)
        return tuple(self.ended.values())

    def acknowledge(self, ended) -> None:
        for report in ended:
            self.ended.pop((report.job, report.attempt), None)


def kueue_baseline(folder: Path, *, share: float = 1.0) -> dict[str, object]:
    """Wall time, usage, and mean time to admission by class."""
    rules = replace(DEFAULT_RULES, drain_grace_s=1.0, unknown_run_s=1.0, max_starts=600)
    ledger = Ledger(f"sqlite:///{folder / 'kueue.db'}", holder="bench", clock=time.time, rules=rules)
    upgrade(ledger.database)
    ledger.lead()
    ledger.apply(_cluster())
    timers = Timers()
    ports = Ports(clock=timers, capacity=timers, endpoints=timers, ledger=ledger, runner=timers)
    arrivals, number = _arrivals(share), 0
    submitted_s: dict[str, float] = {}
    gc.freeze()
    began_s = time.time()
    told_s, num_cycles = began_s, 0
    while number < len(arrivals) or ledger._mirror.jobs.rows:
        now_s = time.time() - began_s
        due = []
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
            told_s = time.time()
            say(f"kueue: {now_s:.0f} s, {number} submitted, {len(ledger._mirror.waiting)} wait, {num_cycles} cycles")
    wall_s = time.time() - began_s
    work = sum(_CLASSES[_kind(job.name)][2] * _CLASSES[_kind(job.name)][3] for _, job in arrivals)
    waits: dict[str, list[float]] = defaultdict(list)
    for job, at_s in timers.admitted_s.items():
        waits[_kind(job)].append(at_s - submitted_s[job])
    preemptions = sum(row.preemptions for row in ledger.read.jobs(JobFilter(limit=1_000_000)))
    ledger.close()
    return {
        "wall_s": round(wall_s, 1),
        "usage": round(work / (wall_s * _COHORTS * _QUEUES * 20), 3),
        "admission_s": {kind: round(sum(found) / len(found), 2) for kind, found in sorted(waits.items())},
        "workloads": len(arrivals),
        "preemptions": preemptions,
        "cycles": num_cycles,
    }


def _kind(job: str) -> str:
    return job.partition("-")[0]


def _arrivals(share: float) -> list[tuple[float, NewJob]]:
    found = []
    for cohort in range(_COHORTS):
        for queue in range(_QUEUES):
            for kind, (count, every_s, runs_s, units, priority) in _CLASSES.items():
                for at in range(max(1, int(count * share))):
                    shape = JobShape(sizes=(units,), work_s=runs_s * units, max_failures=0)
                    name = f"{kind}-{cohort}-{queue}-{at}"
                    job = NewJob(name=name, queue=f"q{cohort}-{queue}", priority=priority, shape=shape)
                    found.append((every_s * at, job))
    return sorted(found, key=lambda one: (one[0], one[1].name))


def _cluster() -> Cluster:
    like = 'device: unit, market: on_demand, price: "1", capacity: {source: ray}'
    pools = [f"  - {{name: c{at}, {like}}}" for at in range(_COHORTS)]
    quota = "nominal: 20, borrow: 100"
    queues = [
        f"  - {{name: q{cohort}-{at}, cohort: c{cohort}, min_run: 0s, quotas: [{{pool: c{cohort}, {quota}}}]}}"
        for cohort in range(_COHORTS)
        for at in range(_QUEUES)
    ]
    head = ["apiVersion: tideline/v1", "kind: Cluster", "metadata: {name: kueue}", "spec:", "  pools:"]
    (found,) = load_text("\n".join([*head, *pools, "  queues:", *queues]))
    assert isinstance(found, Cluster)
    return found
