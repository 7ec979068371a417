"""Whole cycles (snapshot, decision with a reason for everybody, commit) at many queued jobs: times and memory."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace
from pathlib import Path

import psutil

from orchestrator.api.serve import COLLECT
from orchestrator.cycle import decide
from orchestrator.ledger.facts import DEFAULT_RULES
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import JobShape
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.submission import NewJob
from orchestrator.policy.queueing.orders import Phase, Report
from orchestrator.policy.queueing.places import Node, Pool
from orchestrator.policy.queueing.roll import Roll
from orchestrator.policy.queueing.values import Coupling
from orchestrator.spec import Cluster, load_text

_POOLS, _QUEUES, _TENANTS, _DEVICES = 4, 20, 10, 8


def cycles(folder: Path, *, queued: int, nodes: int, rounds: int = 200) -> dict[str, float]:
    """Cycles in a steady state: in each a few running jobs end, as many are submitted, and `queued` go on waiting."""
    draw, clock = random.Random(7), [1_000_000.0]
    gc.set_threshold(*COLLECT)  # as in a server
    url = f"sqlite:///{folder / f'cycles-{queued}.db'}"
    ledger = Ledger(url, holder="bench", clock=lambda: clock[0], rules=replace(DEFAULT_RULES, max_starts=200))
    upgrade(ledger.database)
    ledger.lead()
    pools, roll = _pools(nodes), Roll()
    ledger.apply(_cluster(nodes))
    number = 0
    for start in range(0, queued + nodes, 1000):
        jobs = [_job(draw, number + at) for at in range(min(1000, queued + nodes - start))]
        number += len(jobs)
        ledger.submit(*jobs)
    for _ in range(15):
        _cycle(ledger, pools, roll, clock)
    # What lives long is not looked at by the collector again and again.
    gc.collect()
    gc.freeze()
    took, decided, worked = [], [], []
    for _ in range(rounds):
        _end_some(ledger, draw, clock[0])
        ledger.submit(*(_job(draw, number + at) for at in range(5)))
        number += 5
        cpu_s = time.process_time()
        whole, deciding = _cycle(ledger, pools, roll, clock)
        worked.append((time.process_time() - cpu_s) * 1000)
        took.append(whole)
        decided.append(deciding)
    gc.unfreeze()
    running, waiting = len(ledger._mirror.holding), len(ledger._mirror.waiting)
    rss_mib = psutil.Process().memory_info().rss / 2**20
    ledger.close()
    return {
        "p50_ms": _percentile(took, 0.50),
        "p99_ms": _percentile(took, 0.99),
        "max_ms": _percentile(took, 1.0),
        "decide_p50_ms": _percentile(decided, 0.50),
        "cpu_p50_ms": _percentile(worked, 0.50),
        "cpu_p99_ms": _percentile(worked, 0.99),
        "rss_mib": round(rss_mib, 1),
        "waiting": waiting,
        "running": running,
        "devices": nodes * _DEVICES,
        "rounds": rounds,
    }


def _cycle(ledger: Ledger, pools: tuple[Pool, ...], roll: Roll, clock: list[float]) -> tuple[float, float]:
    clock[0] += 1.0
    began_s = time.perf_counter()
    snapshot = ledger.snapshot(pools, now_s=clock[0])
    seen_s = time.perf_counter()
    decisions = decide(snapshot, roll)
    decided_s = time.perf_counter()
    ledger.commit(snapshot, decisions)
    ledger.sent(ledger.unsent())
    return (time.perf_counter() - began_s) * 1000, (decided_s - seen_s) * 1000


def _end_some(ledger: Ledger, draw: random.Random, now_s: float) -> None:
    """Five jobs end, and whoever drains has drained."""
    rows = ledger._mirror.jobs.rows
    ending = draw.sample(sorted(ledger._mirror.holding), min(5, len(ledger._mirror.holding)))
    reports = [Report(job=job, attempt=rows[job].attempt, phase=Phase.SUCCEEDED) for job in ending]
    draining = [row for row in rows.values() if row.state == "draining"]
    reports += [Report(job=row.id, attempt=row.attempt, phase=Phase.STOPPED) for row in draining]
    ledger.record(tuple(reports), now_s=now_s)


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


def _job(draw: random.Random, number: int) -> NewJob:
    least = draw.choice([1, 2, 4, 8, 8, 16, 32])
    shape = JobShape(
        sizes=draw.choice([(least,), (least, 2 * least)]),
        coupling=draw.choice([Coupling.LOOSE, Coupling.TIGHT]),
        work_s=draw.choice([None, 600.0, 7200.0, 36_000.0]),
    )
    return NewJob(
        name=f"j{number:07d}",
        queue=f"q{draw.randrange(_QUEUES)}",
        tenant=f"t{draw.randrange(_TENANTS)}",
        priority=draw.choice([10, 50, 90]),
        shape=shape,
    )


def _pools(nodes: int) -> tuple[Pool, ...]:
    each = nodes // _POOLS
    return tuple(
        Pool(
            name=f"p{pool}",
            resource="GPU",
            device="H100",
            micro_usd_per_device_hour=2_000_000 + pool,
            nodes=tuple(
                Node(name=f"p{pool}n{at}", devices=_DEVICES, place=("zone", f"rack{at // 32}")) for at in range(each)
            ),
        )
        for pool in range(_POOLS)
    )


def _cluster(nodes: int) -> Cluster:
    nominal = nodes // _POOLS * _DEVICES * _POOLS // _QUEUES // _POOLS
    like = 'device: H100, market: spot, price: "2", capacity: {source: ray}'
    pools = [f"  - {{name: p{at}, {like}}}" for at in range(_POOLS)]
    quotas = ", ".join(f"{{pool: p{at}, nominal: {nominal}}}" for at in range(_POOLS))
    queues = [f"  - {{name: q{at}, cohort: c{at % 5}, quotas: [{quotas}]}}" for at in range(_QUEUES)]
    tenants = [f"  - {{name: t{at}}}" for at in range(_TENANTS)]
    head = ["apiVersion: tideline/v1", "kind: Cluster", "metadata: {name: bench}", "spec:", "  pools:"]
    (found,) = load_text("\n".join([*head, *pools, "  queues:", *queues, "  tenants:", *tenants]))
    assert isinstance(found, Cluster)
    return found
