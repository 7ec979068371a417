"""Queue policies on recorded submissions: `python -m tests.benchmarks.queue_policies [--data DIR] [--quick]`.

The series names jobs, times, applications and replicas, and no durations: the work of each application and how much
faster more workers make it are stated below (`APPS`) and are ours. Compared: first come, first served with whole gangs;
strict priority with preemption; ours with the same fixed sizes; ours where a job may have half to twice its replicas.
Physics are the same for all: a job saves for 10 s when it is stopped or shrunk, and stands for 30 s at every start and
resize.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.cycle import decide
from orchestrator.policy.queueing.decisions import (
    Admit,
    ChangeCause,
    Decisions,
    Evict,
    Explanation,
    Resize,
    Seats,
    StartReason,
    WaitReason,
    Waits,
    workers_in,
)
from orchestrator.policy.queueing.parties import Queue, Quota, Reach, Rules, Tenant
from orchestrator.policy.queueing.places import Node, Pool
from orchestrator.policy.queueing.values import Job, LeaseState, Snapshot
from tests.benchmarks.harness import print_result, read_options, say
from tests.policy.queueing.build import apply

# GPU-hours of a job at the replicas it asked for, and the exponent of its speed-up: n workers do n**e of one's work.
APPS = {
    "cifar10": (0.7, 0.80),
    "deepspeech2": (5.0, 0.85),
    "bert": (10.0, 0.90),
    "yolov3": (30.0, 0.85),
    "imagenet": (120.0, 0.90),
}
_NODES, _DEVICES, _TENANTS = 16, 4, 4
_STALL_S, _SAVE_S = 30.0, 10.0
_RULES = Rules(
    tight=Reach(),
    modular=Reach(),
    island_min_workers=2,
    unknown_run_s=86_400.0,
    drain_grace_s=_SAVE_S,
    urgent_s=600.0,
    max_starts=1000,
    usage_half_life_s=4 * 3600.0,
)
Policy = Callable[[Snapshot], Decisions]


@dataclass(slots=True)
class Task:
    """One recorded job: serial work (seconds of one worker) that is left, and what became of it."""

    name: str
    app: str
    at_s: float
    replicas: int
    left_s: float = 0.0
    stalled_until_s: float = 0.0
    preemptions: int = 0
    resizes: int = 0
    ended_s: float = 0.0

    @property
    def alone_s(self) -> float:
        """How long it would take with its replicas and nobody else."""
        return APPS[self.app][0] * 3600 / self.replicas + _STALL_S

    def speed(self, workers: int) -> float:
        """Serial seconds done in a second."""
        return workers ** APPS[self.app][1]


@dataclass
class World:
    """A cluster that does what a policy decides, from event to event."""

    policy: Policy
    tasks: dict[str, Task]
    snap: Snapshot
    jobs: dict[str, Job]
    coming: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Until everybody is done."""
        self.coming = sorted(self.tasks, key=lambda name: (self.tasks[name].at_s, name))
        while self.coming or self.snap.waiting or self.snap.running:
            self._arrive()
            decisions = self.policy(self.snap)
            self._note(decisions)
            self.snap = apply(self.snap, decisions, drain=True)
            self._advance(decisions.wake_at_s)

    def _arrive(self) -> None:
        now_s, come = self.snap.now_s, []
        while self.coming and self.tasks[self.coming[0]].at_s <= now_s:
            come.append(self.jobs[self.coming.pop(0)])
        waiting = [replace(job, work_s=self._work_s(job.id, job.sizes[0])) for job in (*self.snap.waiting, *come)]
        self.snap = replace(self.snap, waiting=tuple(waiting))

    def _work_s(self, name: str, workers: int) -> float:
        """Worker-seconds that are left at a size, which is what a job tells of itself."""
        task = self.tasks[name]
        return task.left_s / task.speed(workers) * workers

    def _note(self, decisions: Decisions) -> None:
        now_s = self.snap.now_s
        for one in decisions.starts:
            self.tasks[one.job].stalled_until_s = now_s + _STALL_S
        for change in decisions.changes:
            task = self.tasks[change.job]
            task.stalled_until_s = now_s + _STALL_S
            task.preemptions += isinstance(change, Evict)
            task.resizes += isinstance(change, Resize)

    def _workers(self) -> dict[str, int]:
        held = {one.job.id: 0 for one in self.snap.running}
        for lease in self.snap.leases:
            if lease.state is LeaseState.HELD:
                held[lease.holder] += lease.devices
        return held

    def _advance(self, wake_at_s: float | None) -> None:
        now_s, workers = self.snap.now_s, self._workers()
        ends = {name: self._end_s(name, count) for name, count in workers.items()}
        events = [*ends.values(), *([] if wake_at_s is None else [wake_at_s])]
        events += [lease.until_s for lease in self.snap.leases if lease.state is LeaseState.DRAINING]
        events += [self.tasks[name].at_s for name in self.coming[:1]]
        after_s = min(at for at in events if at > now_s)
        for name, count in workers.items():
            task = self.tasks[name]
            task.left_s -= max(0.0, after_s - max(now_s, task.stalled_until_s)) * task.speed(count)
        done = {name for name, end_s in ends.items() if end_s <= after_s}
        for name in done:
            self.tasks[name].ended_s = after_s
        self.snap = replace(
            self.snap,
            now_s=after_s,
            running=tuple(
                replace(one, job=replace(one.job, work_s=self._work_s(one.job.id, workers[one.job.id])))
                for one in self.snap.running
                if one.job.id not in done
            ),
            leases=tuple(
                lease
                for lease in self.snap.leases
                if (lease.until_s > after_s if lease.state is LeaseState.DRAINING else lease.holder not in done)
            ),
        )

    def _end_s(self, name: str, workers: int) -> float:
        task = self.tasks[name]
        return max(self.snap.now_s, task.stalled_until_s) + task.left_s / task.speed(workers)


def fifo_gang(snap: Snapshot) -> Decisions:
    """Whole gangs in order of arrival; the first that does not fit stops all behind it."""
    return _in_order(snap, sorted(snap.waiting, key=lambda job: (job.submitted_s, job.id)))


def strict_priority(snap: Snapshot) -> Decisions:
    """Higher classes first, then arrival; the first that does not fit stops the newest of lower classes."""
    decisions = _in_order(snap, sorted(snap.waiting, key=lambda job: (-job.priority, job.submitted_s, job.id)))
    blocked = {job for group in decisions.waits for job in group.jobs}
    if not blocked or any(lease.state is LeaseState.DRAINING for lease in snap.leases):
        return decisions
    first = min((job for job in snap.waiting if job.id in blocked), key=lambda job: (-job.priority, job.submitted_s))
    started = sum(workers_in(one.placement) for one in decisions.starts)
    need = first.sizes[0] - sum(_free(snap).values()) + started
    victims = sorted((one for one in snap.running if one.job.priority < first.priority), key=lambda one: -one.started_s)
    stopped = []
    for one in victims:
        if need > 0:
            stopped.append(one)
            need -= one.job.sizes[0]
    if need > 0:
        return decisions
    until_s = snap.now_s + _SAVE_S
    evictions = [
        Evict(job=one.job.id, cause=ChangeCause.PRIORITY, detail="", drain_until_s=until_s, for_job=first.id)
        for one in stopped
    ]
    return replace(decisions, changes=tuple(evictions))


def _in_order(snap: Snapshot, order: list[Job]) -> Decisions:
    free, starts, waits, blocked = _free(snap), [], [], False
    for job in order:
        need, seats = job.sizes[0], []
        if not blocked and sum(free.values()) >= need:
            for node in sorted(free, key=lambda name: (-free[name], name)):
                part = min(need, free[node])
                if part:
                    seats.append(Seats("pool", node, part))
                    free[node] -= part
                    need -= part
            starts.append(Admit(job=job.id, placement=tuple(seats), reason=StartReason.IN_ORDER, detail=""))
        else:
            blocked = True
            waits.append(Waits((job.id,), Explanation(WaitReason.GANG_INCOMPLETE, "")))
    return Decisions(starts=tuple(starts), waits=tuple(waits))


def _free(snap: Snapshot) -> dict[str, int]:
    free = {node.name: node.devices for node in snap.pools[0].nodes}
    for lease in snap.leases:
        for node, devices in lease.nodes:
            free[node] -= devices
    return free


def _jobs(tasks: dict[str, Task], *, elastic: bool) -> dict[str, Job]:
    """Four tenants take turns; every tenth job is urgent, and half of the others can wait."""
    found = {}
    for at, task in enumerate(tasks.values()):
        sizes = sorted({max(1, task.replicas // 2), task.replicas, 2 * task.replicas}) if elastic else [task.replicas]
        found[task.name] = Job(
            id=task.name,
            queue="main",
            tenant=f"t{at % _TENANTS}",
            priority=90 if at % 10 == 0 else 50 if at % 2 else 10,
            submitted_s=task.at_s,
            sizes=tuple(sizes),
        )
    return found


def _snapshot() -> Snapshot:
    nodes = tuple(Node(name=f"n{at:02d}", devices=_DEVICES) for at in range(_NODES))
    pool = Pool(name="pool", resource="GPU", device="gpu", micro_usd_per_device_hour=0, nodes=nodes)
    queue = Queue(name="main", quotas=(Quota(pool="pool", nominal=_NODES * _DEVICES),), min_run_s=600.0)
    tenants = tuple(Tenant(name=f"t{at}") for at in range(_TENANTS))
    return Snapshot(now_s=0.0, rules=_RULES, pools=(pool,), queues=(queue,), tenants=tenants)


def _read(path: Path, limit: int | None) -> dict[str, Task]:
    tasks = {}
    with path.open() as lines:
        for row in list(csv.DictReader(lines))[:limit]:
            task = Task(row["name"], row["application"], float(row["time"]), int(row["num_replicas"]))
            task.left_s = (task.alone_s - _STALL_S) * task.speed(task.replicas)
            tasks[task.name] = task
    return tasks


def measure(path: Path, name: str, policy: Policy, *, elastic: bool, limit: int | None = None) -> dict[str, object]:
    """One policy on one file. Fairness is Jain's index of alone/with-others times of all jobs."""
    tasks = _read(path, limit)
    jobs = _jobs(tasks, elastic=elastic)
    World(policy, tasks, _snapshot(), jobs).run()
    spans = sorted(task.ended_s - task.at_s for task in tasks.values())
    shares = [task.alone_s / (task.ended_s - task.at_s) for task in tasks.values()]
    urgent = [tasks[job.id].ended_s - job.submitted_s for job in jobs.values() if job.priority == 90]
    return {
        "series": path.stem,
        "policy": name,
        "mean_jct_h": round(statistics.mean(spans) / 3600, 2),
        "p99_jct_h": round(spans[min(len(spans) - 1, int(0.99 * len(spans)))] / 3600, 2),
        "urgent_mean_jct_h": round(statistics.mean(urgent) / 3600, 2),
        "makespan_h": round(max(task.ended_s for task in tasks.values()) / 3600, 2),
        "jain": round(sum(shares) ** 2 / (len(shares) * sum(one * one for one in shares)), 3),
        "preemptions": sum(task.preemptions for task in tasks.values()),
        "resizes": sum(task.resizes for task in tasks.values()),
        "jobs": len(tasks),
    }


_POLICIES: tuple[tuple[str, Policy, bool], ...] = (
    ("fifo-gang", fifo_gang, False),
    ("strict-priority", strict_priority, False),
    ("ours, fixed sizes", decide, False),
    ("ours, elastic", decide, True),
)


def main() -> int:
    """All policies on all files."""
    options = read_options(__doc__ or "")
    paths = sorted((options.data / "training-workloads").glob("*.csv"))
    if not paths:
        say(f"{options.data}/training-workloads: holds no series; give the folder with --data")
        return 2
    rows = []
    for path in paths[:1] if options.quick else paths:
        for name, policy, elastic in _POLICIES:
            rows.append(measure(path, name, policy, elastic=elastic, limit=40 if options.quick else None))
            say(str(rows[-1]))
    print_result(
        {
            "benchmark": "queue_policies",
            "rows": rows,
            "assumed": {app: {"gpu_hours": hours, "speedup_exponent": power} for app, (hours, power) in APPS.items()},
            "cluster": {"nodes": _NODES, "devices_per_node": _DEVICES, "stall_s": _STALL_S, "save_s": _SAVE_S},
        },
        quick=options.quick,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
