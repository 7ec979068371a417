"""Devices to jobs, turn by turn: owners first, then queues in order; heads are promised a start, others fill gaps.

A turn gives a job its minimum, or one that has workers some more, until its tenant stands above the next one. So
devices go to tenants by standing, whatever sizes and numbers of jobs they ask with.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.claims import Claim, Claims
from orchestrator.policy.queueing.decisions import Explanation, StartReason, WaitReason
from orchestrator.policy.queueing.fit import Fit, Fitter
from orchestrator.policy.queueing.forced import take_seats
from orchestrator.policy.queueing.growth import grow
from orchestrator.policy.queueing.order import Line, QueueLine, line_up
from orchestrator.policy.queueing.parties import Purse
from orchestrator.policy.queueing.promises import Returns, consume, promise
from orchestrator.policy.queueing.values import Claimed, Job, Promised, Running

_SHARED = frozenset(
    {
        WaitReason.NO_MATCHING_POOL,
        WaitReason.EXCEEDS_MAX_QUOTA,
        WaitReason.WAITING_FOR_QUOTA,
        WaitReason.TOPOLOGY_PLACEMENT_FAILED,
        WaitReason.SERVE_HEADROOM,
        WaitReason.GANG_INCOMPLETE,
        WaitReason.NODE_HEALTH_HOLD,
        WaitReason.PENDING_EVALUATION,
    }
)
"""Reasons that hold for every job of the same shape, however long it runs: room only shrinks in one decision."""
_CLAIMABLE = _SHARED - {WaitReason.NO_MATCHING_POOL, WaitReason.EXCEEDS_MAX_QUOTA, WaitReason.PENDING_EVALUATION}
# A head for which nothing can be promised gives way to the next; looking for one must not take the whole cycle.
_MOST_HEADS = 4

Shape = tuple[int, int, int, str, str | None, str]


@dataclass(frozen=True, slots=True)
class Start:
    """A job that starts now, and by which right."""

    sitting: Sitting
    reason: StartReason
    reserve: Purse
    end_s: float


@dataclass(slots=True)
class Filling:
    """One pass over all jobs that passed their gates. `starts`, `waits` and `claims` are what comes of it."""

    board: Board
    starts: dict[str, Start] = field(default_factory=dict)
    waits: dict[str, Explanation] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    claimed: list[Claimed] = field(default_factory=list)
    promised: dict[str, Promised] = field(default_factory=dict)
    fitter: Fitter = field(init=False)
    _claims: Claims = field(init=False)
    _stuck: set[str] = field(default_factory=set)
    _heads: set[str] = field(default_factory=set)
    _tries: dict[str, int] = field(default_factory=dict)
    _expected: dict[str, Returns] = field(default_factory=dict)
    _known: dict[str, dict[Shape, Explanation]] = field(default_factory=dict)
    _brought: dict[str, int] = field(default_factory=dict)
    _delayers: dict[tuple[str, str, Shape], tuple[float, Explanation]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fitter = Fitter(self.board)
        self._claims = Claims(self.board, self.fitter.promises)
        for (tenant, _), owned in self.board.now.shares.owned.items():
            self._brought[tenant] = max(self._brought.get(tenant, 0), owned.contributed)

    def run(self, waiting: list[Job], growing: list[Job]) -> None:
        """Serve owners, then everybody in order. Every waiting job gets a start or a reason to wait."""
        self._owners(waiting)
        self._honour(waiting)
        self._keep_promises(waiting)
        rest = (job for job in waiting if job.id not in self.waits)
        lines = {line.name: line for line in line_up(self.board, [*rest, *growing])}
        heap = [entry for line in lines.values() if (entry := self._entry(line)) is not None]
        heapq.heapify(heap)
        while heap:
            *_, name = heapq.heappop(heap)
            self._turn(lines[name], alone=not heap)
            if (entry := self._entry(lines[name])) is not None:
                heapq.heappush(heap, entry)

    def _entry(self, queue: QueueLine) -> tuple[bool, float, float, str] | None:
        """The queue's place by the next of its jobs that needs a turn; those that do not are answered on the way."""
        while (line := queue.next_line()) is not None:
            self._answer_known(line)
            if (job := line.head) is not None:
                return queue.key(self.board.candidates(job), job)
        return None

    def _answer_known(self, line: Line) -> None:
        """Pass over jobs that wait for what an earlier one of their queue and shape waits for."""
        sittings, waits, jobs, end = self.board.sittings, self.waits, line.jobs, len(line.jobs)
        known = self._known.get(jobs[0].queue, {})
        # A tenant's own devices may do where the queue's do not: what others wait for says nothing of it.
        own = self._brought.get(line.tenant, 0)
        while line.at < end:
            job = jobs[line.at]
            if job.id in sittings or job.id in self.starts:
                return
            why = known.get(_shape(job)) if job.min_devices > own else None
            if why is None and (why := self._known_delay(job)) is None:
                return
            waits[job.id] = why
            line.at += 1

    def _known_delay(self, job: Job) -> Explanation | None:
        """A job that runs as long as one that would delay a head would, too."""
        if not self._delayers:
            return None
        found = self._delayers.get((job.queue, job.tenant, _shape(job)))
        return found[1] if found is not None and _length(job) >= found[0] else None

    def _turn(self, queue: QueueLine, *, alone: bool) -> None:
        line = queue.next_line()
        job = line.head if line is not None else None
        if line is None or job is None:
            return
        sitting = self.board.sittings.get(job.id) or (self.starts[job.id].sitting if job.id in self.starts else None)
        rival = queue.rival(line) if alone else None
        if sitting is not None:
            most = self._turn_size(job, sitting.workers, rival)
            line.at += not (sitting.workers < most and grow(self.fitter, sitting, most))
            return
        found = self.fitter.fit(job, self._turn_size(job, 0, rival))
        if isinstance(found, Fit) and len(self.starts) < self.board.snapshot.rules.max_starts:
            self._start(job, found, StartReason.BACKFILL if self._behind_head(job) else StartReason.IN_ORDER)
            return
        if isinstance(found, Fit):
            found = Explanation(WaitReason.PENDING_EVALUATION, "the next cycle, at once: this one starts no more jobs")
        line.at += 1
        self._block(job, found)

    def _turn_size(self, job: Job, workers: int, rival: tuple[float, str] | None) -> int:
        """How far one turn goes: as far as turns of one step each would go before its rival's. One step while other
        queues wait, too."""
        mine = self.board.now.shares.member(job.tenant, job.resource)
        bigger = [size for size in job.sizes if size > workers]
        if rival is None or not bigger:
            return bigger[0] if bigger else workers
        reached = bigger[0]
        for size in bigger[1:]:
            if (mine.after((reached - workers) * job.devices_per_worker), job.tenant) > rival:
                break
            reached = size
        return reached

    def _start(self, job: Job, fit: Fit, reason: StartReason) -> None:
        board = self.board
        sitting = Sitting(Running(job=job, started_s=board.snapshot.now_s), {}, {}, changed=True)
        for pool, taken in fit.seats:
            devices = sum(count for _, count in taken)
            draw = board.account(job.queue, pool).draw(devices)
            consume(self.fitter.promises.get(pool, []), board, job, fit.end_s, taken, draw)
            take_seats(board, sitting, pool, taken)
            board.now.charge(job.queue, job.tenant, board.grounds[pool].pool, devices)
            board.started.append((job, fit.end_s, pool, taken))
        if fit.reserve != Purse():
            board.set_aside(job.tenant, fit.reserve)
        self.starts[job.id] = Start(sitting, reason, fit.reserve, fit.end_s)

    def _behind_head(self, job: Job) -> bool:
        return self._group(job) in self._heads

    def _group(self, job: Job) -> str:
        """Queues that share a head: a cohort, or a queue that has none."""
        cohort = self.board.queues[job.queue].cohort
        return f"queue {job.queue}" if cohort is None else f"cohort {cohort}"

    def _block(self, job: Job, why: Explanation) -> None:
        """A job that does not fit claims devices if it may, else becomes the head if there is none, else waits."""
        if why.reason in _CLAIMABLE and job.queue not in self._stuck:
            claim = self._claims.claim(job, self.board.candidates(job))
            if claim is not None:
                self._enter_claim(claim)
                return
            self._stuck.add(job.queue)
        self.waits[job.id] = self._head(job, why) if why.reason in _CLAIMABLE else why
        if why.reason in _SHARED:
            if job.min_devices > self._brought.get(job.tenant, 0):
                self._known.setdefault(job.queue, {})[_shape(job)] = why
        elif why.reason is WaitReason.BACKFILL_RESERVATION:
            self._delayers[job.queue, job.tenant, _shape(job)] = (_length(job), why)

    def _enter_claim(self, claim: Claim, since_s: float | None = None) -> None:
        self.claims.append(claim)
        since_s = self.board.snapshot.now_s if since_s is None else since_s
        self.claimed.append(Claimed(job=claim.job.id, pool=claim.pool, workers=claim.workers, since_s=since_s))
        asked = ", ".join(f"{one.victim.job.id} ({one.cause})" for one in claim.demands)
        detail = f"asked back from {asked}" if asked else "devices it was given are still draining"
        self.waits[claim.job.id] = Explanation(WaitReason.WAITING_FOR_PREEMPTED, detail, claim.ready_s, claim.pool)

    def _head(self, job: Job, why: Explanation) -> Explanation:
        """Promise a start to the first blocked job of its cohort for which one can be computed."""
        group = self._group(job)
        if group not in self._heads and self._tries.get(group, 0) < _MOST_HEADS and not self._promise(job):
            self._tries[group] = self._tries.get(group, 0) + 1
        return replace(why, eta_s=self.promised[job.id].at_s) if job.id in self.promised else why

    def _promise(self, job: Job, before: Promised | None = None) -> bool:
        found = promise(self.board, job, self._expected)
        if found is None:
            return False
        pool, promised = found
        self._heads.add(self._group(job))
        self.fitter.promises.setdefault(pool, []).append(promised)
        since_s = self.board.snapshot.now_s if before is None else before.since_s
        self.promised[job.id] = Promised(job=job.id, since_s=since_s, at_s=promised.at_s)
        return True

    def _keep_promises(self, waiting: Iterable[Job]) -> None:
        """Who was promised a start is before everybody who was not: it starts, or is promised again."""
        records = {one.job: one for one in self.board.snapshot.promises}
        left = self._left(waiting) if records else []
        for job in sorted((one for one in left if one.id in records), key=lambda one: (records[one.id].at_s, one.id)):
            record = records[job.id]
            if any(_overrules(other, job, record.since_s) for other in left):
                continue
            found = self.fitter.fit(job, job.sizes[0])
            if isinstance(found, Fit):
                self._start(job, found, StartReason.IN_ORDER)
            elif found.reason in _CLAIMABLE:
                self._promise(job, record)

    def _left(self, waiting: Iterable[Job]) -> list[Job]:
        return [job for job in waiting if job.id not in self.starts and job.id not in self.waits]

    def _owners(self, waiting: Iterable[Job]) -> None:
        """Tenants within what they brought: they start or claim before anybody else's turn."""
        owned = self.board.now.shares.owned
        if not owned:
            return
        tenants = {tenant for tenant, _ in owned}
        theirs = [job for job in waiting if job.tenant in tenants]
        for job in sorted(theirs, key=lambda one: (-one.priority, one.submitted_s, one.id)):
            for pool in self.board.candidates(job):
                most = self.board.now.shares.own_available(job.tenant, pool) // job.devices_per_worker
                if most >= job.sizes[0] and self._own(job, pool, most):
                    break

    def _honour(self, waiting: Iterable[Job]) -> None:
        """What was asked back for a job is its own once it is there, unless a higher class came to its queue since."""
        records = {one.job: one for one in self.board.snapshot.claims}
        if not records:
            return
        left = self._left(waiting)
        mine = [job for job in left if job.id in records]
        for job in sorted(mine, key=lambda one: (records[one.id].since_s, one.submitted_s, one.id)):
            if not any(_overrules(other, job, records[job.id].since_s) for other in left):
                self._redeem(job, records[job.id])

    def _redeem(self, job: Job, record: Claimed) -> None:
        if record.pool not in self.board.candidates(job):
            return
        found = self.fitter.fit(job, record.workers, (record.pool,))
        if isinstance(found, Fit):
            self._start(job, found, StartReason.IN_ORDER)
        elif found.reason in _CLAIMABLE and (claim := self._claims.keep(job, record.pool, record.workers)):
            self._enter_claim(claim, record.since_s)

    def _own(self, job: Job, pool: str, most_workers: int) -> bool:
        found = self.fitter.fit(job, most_workers, (pool,))
        if isinstance(found, Fit):
            self._start(job, found, StartReason.OWN_DEVICES)
            return True
        claim = self._claims.claim(job, (pool,)) if found.reason in _CLAIMABLE else None
        if claim is not None:
            self._enter_claim(claim)
        return claim is not None


def _overrules(other: Job, job: Job, since_s: float) -> bool:
    """Whether a higher class came to a job's queue after something was said to the job."""
    return other.queue == job.queue and other.priority > job.priority and other.submitted_s > since_s


def _shape(job: Job) -> Shape:
    return job.sizes[0], job.sizes[-1], job.devices_per_worker, job.coupling, job.window, job.resource


def _length(job: Job) -> float:
    return float("inf") if job.work_s is None else job.work_s
