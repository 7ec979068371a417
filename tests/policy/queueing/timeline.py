"""A cluster that lives through time for tests: jobs end when their work is done; every event brings a decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Admit, Decisions
from orchestrator.policy.queueing.parties import Recent
from orchestrator.policy.queueing.shares import recent_after
from orchestrator.policy.queueing.values import Job, LeaseState, Snapshot
from tests.policy.queueing.build import apply


@dataclass
class Timeline:
    """Work is linear in workers and estimates hold. `submit` maps times to jobs that come then."""

    snap: Snapshot
    submit: dict[float, list[Job]] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    etas: dict[str, float] = field(default_factory=dict)
    device_s: dict[str, float] = field(default_factory=dict)

    def step(self) -> Decisions:
        """Decide, do, and go on to the next event."""
        arrived = tuple(one for at in sorted(self.submit) if at <= self.snap.now_s for one in self.submit[at])
        self.submit = {at: jobs for at, jobs in self.submit.items() if at > self.snap.now_s}
        self.snap = replace(self.snap, waiting=(*self.snap.waiting, *arrived))
        decisions = decide_queues(self.snap)
        self._note(decisions)
        self.snap = apply(self.snap, decisions, drain=True)
        self._advance(decisions.wake_at_s)
        return decisions

    def _note(self, decisions: Decisions) -> None:
        for one in decisions.verdicts():
            if isinstance(one, Admit):
                self.started_s.setdefault(one.job, self.snap.now_s)
            elif one.why.eta_s is not None:
                self.etas.setdefault(one.job, one.why.eta_s)

    def _advance(self, wake_at_s: float | None) -> None:
        now_s, workers = self.snap.now_s, self._workers()
        events = [now_s + one.job.work_s / workers[one.job.id] for one in self.snap.running]
        events += [lease.until_s for lease in self.snap.leases if lease.state is LeaseState.DRAINING]
        events += [*self.submit, *([] if wake_at_s is None else [wake_at_s])]
        after_s = min((one for one in events if one > now_s), default=now_s + 1.0)
        self._run(after_s, workers)

    def _workers(self) -> dict[str, int]:
        held: dict[str, int] = {}
        for lease in self.snap.leases:
            if lease.state is LeaseState.HELD:
                held[lease.holder] = held.get(lease.holder, 0) + lease.devices
        return {one.job.id: held[one.job.id] // one.job.devices_per_worker for one in self.snap.running}

    def _run(self, after_s: float, workers: dict[str, int]) -> None:
        span_s = after_s - self.snap.now_s
        for lease in self.snap.leases:
            self.device_s[lease.tenant] = self.device_s.get(lease.tenant, 0.0) + lease.devices * span_s
        running = [
            replace(one, job=replace(one.job, work_s=one.job.work_s - workers[one.job.id] * span_s))
            for one in self.snap.running
        ]
        going = {one.job.id for one in running if one.job.work_s > 1e-6}
        leases = tuple(
            lease
            for lease in self.snap.leases
            if (lease.until_s > after_s if lease.state is LeaseState.DRAINING else lease.holder in going)
        )
        tenants = tuple(replace(one, recent=self._recent(one.name, one.recent, span_s)) for one in self.snap.tenants)
        self.snap = replace(
            self.snap,
            now_s=after_s,
            running=tuple(one for one in running if one.job.id in going),
            leases=leases,
            tenants=tenants,
        )

    def _recent(self, tenant: str, recent: tuple[Recent, ...], span_s: float) -> tuple[Recent, ...]:
        held = sum(lease.devices for lease in self.snap.leases if lease.tenant == tenant)
        before = sum(one.devices for one in recent)
        return (Recent(resource="GPU", devices=recent_after(before, held, span_s, self.snap.rules.usage_half_life_s)),)
