"""What becomes of a job whose turn it is: a start, a claim on what others hold, a promised start, or a reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.claims import Claim, Claims
from orchestrator.policy.queueing.decisions import Explanation, StartReason, WaitReason
from orchestrator.policy.queueing.fit import Fit, Fitter
from orchestrator.policy.queueing.forced import take_seats
from orchestrator.policy.queueing.known import SHARED, KnownAnswers
from orchestrator.policy.queueing.parties import NOTHING, Purse
from orchestrator.policy.queueing.promises import Returns, consume, promise
from orchestrator.policy.queueing.roll import Roll
from orchestrator.policy.queueing.values import Claimed, Job, Promised, Running

CLAIMABLE = SHARED - {WaitReason.NO_MATCHING_POOL, WaitReason.PENDING_EVALUATION}
"""Reasons that devices asked back from others could take away."""
# A head for which nothing can be promised gives way to the next; looking for one must not take the whole cycle.
_MOST_HEADS = 4


@dataclass(frozen=True, slots=True)
class Start:
    """A job that starts now, and by which right."""

    sitting: Sitting
    reason: StartReason
    reserve: Purse


@dataclass(slots=True)
class Desk:
    """The board with everything that was answered so far: `starts` and `waits` by job, `claims` in order.

    Plain jobs that wait for what another one waits for are in none of them: they are answered by `known.shared`.
    `claimed` and `promised` are what the next decision must remember; `seated` are all jobs that have devices.
    """

    board: Board
    roll: Roll
    starts: dict[str, Start] = field(default_factory=dict)
    waits: dict[str, Explanation] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    claimed: list[Claimed] = field(default_factory=list)
    promised: dict[str, Promised] = field(default_factory=dict)
    seated: set[str] = field(init=False)
    known: KnownAnswers = field(init=False)
    fitter: Fitter = field(init=False)
    finder: Claims = field(init=False)
    _stuck: set[str] = field(default_factory=set)
    _heads: set[str] = field(default_factory=set)
    _tries: dict[str, int] = field(default_factory=dict)
    _expected: dict[str, Returns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seated = set(self.board.sittings)
        self.known = KnownAnswers.of(self.board.now.shares, self.roll, self.board.queues.values())
        self.fitter = Fitter(self.board)
        self.finder = Claims(self.board, self.fitter.promises)

    def serve(self, job: Job, most_workers: int) -> bool:
        """Give a job its turn; True if it starts, else it is answered."""
        found = self.fitter.fit(job, most_workers)
        if isinstance(found, Explanation):
            self._block(job, found)
            return False
        if len(self.starts) >= self.board.snapshot.rules.max_starts:
            why = "the next cycle, at once: this one starts no more jobs"
            self._block(job, Explanation(WaitReason.PENDING_EVALUATION, why, self.board.snapshot.now_s))
            return False
        self.start(job, found, StartReason.BACKFILL if self._group(job) in self._heads else StartReason.IN_ORDER)
        return True

    def start(self, job: Job, fit: Fit, reason: StartReason) -> None:
        """Seat a job, charge it, and set its money aside."""
        board = self.board
        sitting = Sitting(Running(job=job, started_s=board.snapshot.now_s), {}, {}, changed=True)
        for pool, taken in fit.seats:
            devices = sum(count for _, count in taken)
            draw = board.account(job.queue, pool).draw(devices)
            consume(self.fitter.promises.get(pool, []), board, job, fit.end_s, taken, draw)
            take_seats(board, sitting, pool, taken)
            board.now.charge(job.queue, job.tenant, board.grounds[pool].pool, devices)
            board.started.append((job, fit.end_s, pool, taken))
        if fit.reserve != NOTHING:
            board.set_aside(job.tenant, fit.reserve)
        self.seated.add(job.id)
        self.starts[job.id] = Start(sitting, reason, fit.reserve)

    def enter_claim(self, claim: Claim, since_s: float | None = None) -> None:
        """A job waits for devices that were asked back, now or (`since_s`) earlier."""
        self.claims.append(claim)
        since_s = self.board.snapshot.now_s if since_s is None else since_s
        self.claimed.append(Claimed(job=claim.job.id, pool=claim.pool, workers=claim.workers, since_s=since_s))
        asked = ", ".join(f"{one.victim.job.id} ({one.cause})" for one in claim.demands)
        detail = f"asked back from {asked}" if asked else "devices it was given are still draining"
        self.waits[claim.job.id] = Explanation(WaitReason.WAITING_FOR_PREEMPTED, detail, claim.ready_s, claim.pool)

    def promise_start(self, job: Job, before: Promised | None = None) -> bool:
        """Make a job the head of its cohort, if a start can be computed for it."""
        found = promise(self.board, job, self._expected)
        if found is None:
            return False
        pool, promised = found
        self._heads.add(self._group(job))
        self.fitter.promises.setdefault(pool, []).append(promised)
        since_s = self.board.snapshot.now_s if before is None else before.since_s
        self.promised[job.id] = Promised(job=job.id, since_s=since_s, at_s=promised.at_s)
        return True

    def _block(self, job: Job, why: Explanation) -> None:
        """A job that does not fit claims devices if it may, else becomes the head if there is none, else waits."""
        if why.reason in CLAIMABLE and (unpaid := self._unpaid(job)) is not None:
            # Devices asked back for a job that cannot pay for them would only go round in circles.
            why = unpaid
        if why.reason in CLAIMABLE and job.queue not in self._stuck:
            claim = self.finder.claim(job, self.payable(job))
            if claim is not None:
                self.enter_claim(claim)
                return
            self._stuck.add(job.queue)
        self.waits[job.id] = self._as_head(job, why) if why.reason in CLAIMABLE else why
        self.known.learn(job, why)

    def payable(self, job: Job) -> tuple[str, ...]:
        """Pools of a job for which its tenant can pay."""
        candidates = self.board.candidates(job)
        if job.tenant not in self.board.purses:
            return candidates
        return tuple(pool for pool in candidates if self.fitter.unpaid(job, pool) is None)

    def _unpaid(self, job: Job) -> Explanation | None:
        """Why no pool of a job can be paid for; None if one can, or if it has none."""
        candidates = self.board.candidates(job)
        if job.tenant not in self.board.purses or not candidates or self.payable(job):
            return None
        return self.fitter.unpaid(job, candidates[0])

    def _as_head(self, job: Job, why: Explanation) -> Explanation:
        group = self._group(job)
        if group not in self._heads and self._tries.get(group, 0) < _MOST_HEADS and not self.promise_start(job):
            self._tries[group] = self._tries.get(group, 0) + 1
        return replace(why, eta_s=self.promised[job.id].at_s) if job.id in self.promised else why

    def _group(self, job: Job) -> str:
        """Queues that share a head: a cohort, or a queue that has none."""
        cohort = self.board.queues[job.queue].cohort
        return f"queue {job.queue}" if cohort is None else f"cohort {cohort}"
