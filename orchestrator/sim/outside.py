"""The outside world of the control cycle, virtual: a clock that is set, nodes that come and go, jobs that are timers.

Physics only: a job's work shrinks by one worker-second for each second of a worker that runs; starts and stops take
their time; what a killed group had not saved is done again. It outlives the orchestrator's process, as the real world
does: whoever asks again for an attempt that is there adopts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.policy.queueing.decisions import Admit, Evict, Resize, workers_in
from orchestrator.policy.queueing.orders import Order, Phase, Report
from orchestrator.policy.queueing.places import Pool
from orchestrator.ports import UnreachableError


@dataclass(slots=True)
class SimClock:
    """A clock that stands still until it is set. `at_s` is true time; who asks is told what is `skew_s` off."""

    at_s: float = 0.0
    skew_s: float = 0.0

    def now_s(self) -> float:
        """UTC seconds, as this machine believes."""
        return self.at_s + self.skew_s


@dataclass(slots=True)
class SimCapacity:
    """Pools as they are told."""

    pools: tuple[Pool, ...]

    def observe(self) -> tuple[Pool, ...]:
        """All pools."""
        return self.pools


@dataclass(slots=True)
class SimEndpoints:
    """Headroom as it is told."""

    kept: Mapping[str, int] = field(default_factory=dict)
    hurried: Mapping[str, int] = field(default_factory=dict)
    rolling: Mapping[str, int] = field(default_factory=dict)

    def headroom(self) -> Mapping[str, int]:
        """Devices to be kept free, by pool."""
        return self.kept

    def urgent(self) -> Mapping[str, int]:
        """Of these, devices that cannot wait."""
        return self.hurried

    def passing(self) -> Mapping[str, int]:
        """Devices beside all leases, until a roll-out is over."""
        return self.rolling

    def owed(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Endpoints hold no leases here."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """Seconds from an order to the first step, from a stop to the exit, and from one saved state to the next."""

    start_s: float = 1.0
    stop_s: float = 0.5
    save_every_s: float = 10.0


@dataclass(slots=True)
class Group:
    """The workers of one attempt. `runs_s`: when its first step is; `stops_s`: when it will have gone, if it must."""

    attempt: int
    workers: int
    begun_s: float
    runs_s: float
    seen_s: float
    stops_s: float | None = None
    stops_as: int = 0
    lost_worker_s: float = 0.0


@dataclass(slots=True)
class SimJob:
    """A job as its runner knows it. `highest`: the latest attempt that was ever asked for; `work_s`: all its work,
    which its `steps` share equally."""

    id: str
    work_left_s: float
    highest: int = 0
    group: Group | None = None
    done: bool = False
    work_s: float = 0.0
    steps: int = 0


@dataclass(slots=True)
class SimRunner:
    """Runs jobs whose work is `work_of` worker-seconds in `steps_of` steps. Reports of ends stay until they are
    acknowledged."""

    clock: SimClock
    work_of: Callable[[str], float]
    physics: Physics = Physics()
    reachable: bool = True
    jobs: dict[str, SimJob] = field(default_factory=dict)
    ended: dict[tuple[str, int], Report] = field(default_factory=dict)
    started: list[tuple[str, int, int]] = field(default_factory=list)
    steps_of: Callable[[str], int] = lambda job: 0

    def ask(self, order: Order) -> None:
        """Take an order; one that was taken before changes nothing. Raises: UnreachableError."""
        self._sight()
        self.advance()
        job = self._job(order.what.job)
        match order.what:
            case Admit() | Resize() as what:
                if order.attempt > job.highest and not job.done:
                    self._begin(job, order.attempt, workers_in(what.placement))
            case Evict():
                self._stop(job, order.attempt)

    def reports(self) -> tuple[Report, ...]:
        """What is seen of every attempt. Raises: UnreachableError."""
        self._sight()
        self.advance()
        going = (self._report(job, job.group) for job in self.jobs.values() if job.group is not None)
        return (*self.ended.values(), *going)

    def acknowledge(self, ended: Iterable[Report]) -> None:
        """Forget these ends. Raises: UnreachableError."""
        self._sight()
        for report in ended:
            self.ended.pop((report.job, report.attempt), None)

    def advance(self) -> None:
        """Let everybody work until now."""
        now_s = self.clock.at_s
        for job in list(self.jobs.values()):
            group = job.group
            if group is not None:
                self._work(job, group, now_s if group.stops_s is None else min(now_s, group.stops_s))
                if job.done:
                    self._end(job, group, Phase.SUCCEEDED)
                elif group.stops_s is not None and group.stops_s <= now_s:
                    self._end(job, group, Phase.STOPPED)

    def kill(self, job_id: str, phase: Phase = Phase.LOST) -> None:
        """A job's workers die: what they had not saved is lost."""
        self.advance()
        job = self.jobs.get(job_id)
        if job is not None and job.group is not None:
            group = job.group
            unsaved_s = self._unsaved_s(group)
            group.lost_worker_s += unsaved_s
            job.work_left_s += unsaved_s
            self._end(job, group, phase)

    def workers(self) -> dict[str, int]:
        """Workers that are there now, by job."""
        return {job.id: job.group.workers for job in self.jobs.values() if job.group is not None}

    def _sight(self) -> None:
        if not self.reachable:
            raise UnreachableError("the runner is out of sight")

    def _job(self, job_id: str) -> SimJob:
        if job_id not in self.jobs:
            work_s = self.work_of(job_id)
            self.jobs[job_id] = SimJob(job_id, work_s, work_s=work_s, steps=self.steps_of(job_id))
        return self.jobs[job_id]

    def _begin(self, job: SimJob, attempt: int, workers: int) -> None:
        now_s = self.clock.at_s
        delay_s = self.physics.start_s
        if job.group is not None:
            delay_s += self.physics.stop_s
            self._end(job, job.group, Phase.STOPPED)
        job.highest = attempt
        job.group = Group(attempt, workers, now_s, now_s + delay_s, now_s + delay_s)
        self.started.append((job.id, attempt, workers))

    def _stop(self, job: SimJob, attempt: int) -> None:
        group = job.group
        job.highest = max(job.highest, attempt)
        if group is not None and group.attempt <= attempt and group.stops_s is None:
            group.stops_s = self.clock.at_s + self.physics.stop_s
            group.stops_as = attempt
        if group is None and not job.done and (job.id, attempt) not in self.ended:
            # It never began, or has ended by itself: its exit is confirmed in any case.
            self.ended[job.id, attempt] = Report(job=job.id, attempt=attempt, phase=Phase.STOPPED)

    def _work(self, job: SimJob, group: Group, until_s: float) -> None:
        span_s = until_s - group.seen_s
        if span_s <= 0:
            return
        if job.work_left_s <= span_s * group.workers + 1e-9:
            job.work_left_s, job.done = 0.0, True
        else:
            job.work_left_s -= span_s * group.workers
        group.seen_s = until_s

    def _end(self, job: SimJob, group: Group, phase: Phase) -> None:
        job.group = None
        self.ended[job.id, group.attempt] = self._report(job, group, phase)
        if group.stops_as > group.attempt and not job.done:
            # Nobody of a later attempt that never began is left either, now that this one has gone.
            later = Report(job=job.id, attempt=group.stops_as, phase=Phase.STOPPED, work_left_s=job.work_left_s)
            self.ended[job.id, group.stops_as] = later

    def _report(self, job: SimJob, group: Group, phase: Phase | None = None) -> Report:
        now_s = self.clock.at_s
        running = now_s >= group.runs_s
        stalled_s = (min(now_s, group.runs_s) - group.begun_s) * group.workers
        return Report(
            job=job.id,
            attempt=group.attempt,
            phase=phase or (Phase.RUNNING if running else Phase.STARTING),
            steps_done=_steps_done(job),
            work_left_s=job.work_left_s,
            unsaved_work_s=self._unsaved_s(group),
            checkpoint_age_s=self._age_s(group),
            stalled_worker_s=(("start", stalled_s),),
            lost_worker_s=group.lost_worker_s,
        )

    def _age_s(self, group: Group) -> float:
        return max(0.0, group.seen_s - group.runs_s) % self.physics.save_every_s

    def _unsaved_s(self, group: Group) -> float:
        return self._age_s(group) * group.workers


def _steps_done(job: SimJob) -> int:
    """Whole steps; what is a billionth short of one is one."""
    if not job.steps or not job.work_s:
        return 0
    return max(0, job.steps - math.ceil(job.steps * job.work_left_s / job.work_s - 1e-9))
