"""The snapshot of a cycle, from memory: what has not changed since the last one is the same object as before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.ledger.books import recent_at
from orchestrator.ledger.mirror import Mirror
from orchestrator.ledger.rows import AccountRow, JobRow, LeaseRow
from orchestrator.ledger.states import Unit
from orchestrator.ledger.views import job_value, lease_value, reserved_value, with_report
from orchestrator.policy.lending.session import NO_ENDING, Ending
from orchestrator.policy.queueing.from_spec import granted_to, tenant_of
from orchestrator.policy.queueing.money import cost_micro_usd
from orchestrator.policy.queueing.orders import Report
from orchestrator.policy.queueing.parties import Purse, Queue, Recent, Tenant
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.record import from_text
from orchestrator.policy.queueing.values import Claimed, Job, Lease, Promised, Running, Snapshot, Tempo
from orchestrator.policy.resize import ResizeState


@dataclass(slots=True)
class Seer:
    """Makes snapshots of a mirror. `held`: queues that are on hold; `unstaged`: jobs whose data is not close by."""

    mirror: Mirror
    held: set[str] = field(default_factory=set)
    unstaged: frozenset[str] = frozenset()
    _endings: dict[str, Ending] = field(default_factory=dict)
    _nights: dict[str, tuple[Job, bool, Ending, Job]] = field(default_factory=dict)
    _leases: dict[int, tuple[LeaseRow, Lease]] = field(default_factory=dict)
    _running: dict[str, tuple[JobRow, Report | None, str | None, Running]] = field(default_factory=dict)

    def snapshot(self, pools: tuple[Pool, ...], now_ms: int) -> Snapshot:
        """Everything that decides, at `now_ms`."""
        mirror, facts = self.mirror, self.mirror.facts
        return Snapshot(
            now_s=now_ms / 1000,
            rules=facts.rules,
            pools=pools,
            queues=self._queues(),
            tenants=tuple(self._tenants(now_ms)),
            windows=facts.windows,
            levels=facts.levels,
            waiting=self._waiting(),
            running=tuple(self._runs(now_ms)),
            leases=tuple(self._all_leases()),
            claims=tuple(
                Claimed(job=one.job, pool=one.pool, workers=one.workers, since_s=one.since_s)
                for one in mirror.claims.rows.values()
            ),
            promises=tuple(
                Promised(job=one.job, since_s=one.since_s, at_s=one.at_s) for one in mirror.promises.rows.values()
            ),
        )

    def _waiting(self) -> tuple[Job, ...]:
        waiting = tuple(self.mirror.waiting.values())
        if not self.unstaged and not self._endings:
            return waiting
        known, self._nights = self._nights, {}
        return tuple(job if job.window is None else self._nightly(job, known.get(job.id)) for job in waiting)

    def _nightly(self, job: Job, known: tuple[Job, bool, Ending, Job] | None) -> Job:
        """A job that waits for its night, with what is known beside its row."""
        staged, ending = job.id not in self.unstaged, self._endings.get(job.id, NO_ENDING)
        if known is None or known[0] is not job or known[1:3] != (staged, ending):
            known = (job, staged, ending, replace(job, data_staged=staged, ending=ending))
        self._nights[job.id] = known
        return known[3]

    def learn(self, endings: Mapping[str, Ending]) -> None:
        """What ends the nights of these jobs; what running ones tell themselves is remembered until they are over."""
        mirror, found = self.mirror, {**self._endings, **endings}
        self._endings = {job: one for job, one in found.items() if job in mirror.waiting or job in mirror.holding}

    def _queues(self) -> tuple[Queue, ...]:
        queues = self.mirror.facts.queues
        if not self.held:
            return queues
        return tuple(replace(one, on_hold=True) if one.name in self.held else one for one in queues)

    def _all_leases(self) -> Iterator[Lease]:
        known, fresh = self._leases, {}
        for row in self.mirror.leases.rows.values():
            found = known.get(row.id)
            if found is None or found[0] is not row:
                found = (row, lease_value(row))
            fresh[row.id] = found
            yield found[1]
        self._leases = fresh

    def _runs(self, now_ms: int) -> Iterator[Running]:
        fresh = {}
        for job_id in self.mirror.holding:
            row, report = self.mirror.jobs.rows[job_id], self.mirror.reports.get(job_id)
            remembered = self.mirror.tempos.rows.get(job_id)
            state = None if remembered is None else remembered.state
            found = self._running.get(job_id)
            metered = row.shape.budget_micro_usd is not None or row.shape.budget_device_ms is not None
            if metered or found is None or found[0] is not row or found[1] is not report or found[2] != state:
                found = (row, report, state, self._run(row, report, state, now_ms))
            fresh[job_id] = found
            yield found[3]
        self._running = fresh

    def _run(self, row: JobRow, report: Report | None, state: str | None, now_ms: int) -> Running:
        if row.shape.window is not None and report is not None and report.measured is not None:
            self._endings[row.id] = report.measured.ending
        accrued_ms, accrued_micro_usd = self._accrued(row, now_ms)
        job = job_value(with_report(row, report), accrued_ms=accrued_ms, accrued_micro_usd=accrued_micro_usd)
        assert row.started_ms is not None, f"{row.id} holds devices and was never started"
        return Running(
            job=job,
            started_s=row.started_ms / 1000,
            lost_work_s=report.unsaved_work_s if report else 0.0,
            checkpoint_age_s=report.checkpoint_age_s if report else 0.0,
            reserved=reserved_value(row),
            tempo=_tempo(report, state),
        )

    def _accrued(self, row: JobRow, now_ms: int) -> tuple[int, int]:
        """What open leases have cost until now, in device-time and money."""
        time = money = 0
        for lease in self.mirror.leases.of(row.id):
            used = lease.devices * (now_ms - lease.since_ms)
            time += used
            money += cost_micro_usd(used, self.mirror.meters.rows[lease.pool].micro_usd_per_device_hour)
        return time, money

    def _tenants(self, now_ms: int) -> Iterator[Tenant]:
        recents: dict[str, list[Recent]] = {}
        half_life_s = self.mirror.facts.rules.usage_half_life_s
        for row in self.mirror.recents.rows.values():
            past = recent_at(half_life_s, row, now_ms)
            recents.setdefault(row.tenant, []).append(Recent(resource=row.resource, devices=past))
        for tenant in self.mirror.facts.tenants:
            spent = NOTHING_SPENT if granted_to(tenant.grants) is None else self._spent(tenant.name)
            yield tenant_of(tenant, spent=spent, recent=recents.get(tenant.name, ()))

    def _spent(self, tenant: str) -> Purse:
        accounts = self.mirror.accounts.rows
        amounts: dict[str, int] = {}
        for unit in Unit:
            row: AccountRow | None = accounts.get((f"spent:{tenant}", unit))
            amounts[unit.value] = 0 if row is None else row.balance
        return Purse(**amounts)


NOTHING_SPENT = Purse()


def _tempo(report: Report | None, state: str | None) -> Tempo | None:
    if report is None or report.measured is None:
        return None
    known = report.measured
    remembered: ResizeState = ResizeState() if state is None else from_text(state)
    return Tempo(
        plan=known.plan,
        state=remembered,
        outlook=known.outlook,
        stall_s=known.stall_s,
        stop_s=known.stop_s,
        ending=known.ending,
        slow_stop_s=known.slow_stop_s,
    )
