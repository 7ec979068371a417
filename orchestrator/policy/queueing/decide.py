"""The decision of the queues: one pure function from a snapshot to what starts, changes, stops and waits, and why.

In order: what cannot stay is moved or stopped, jobs pass their gates, devices are given out turn by turn, growth that
does not repay its stall is taken back, and everything is written down. Same snapshot, same decisions, in whatever
order its tuples come (tests/policy/queueing/test_decide.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from orchestrator.policy.lending.session import NO_ENDING, SessionPlan, plan_session
from orchestrator.policy.queueing.board import Board, Sitting, set_up, workers_before
from orchestrator.policy.queueing.claims import Claim
from orchestrator.policy.queueing.decisions import (
    Admit,
    Change,
    ChangeCause,
    Decisions,
    Evict,
    Resize,
    Waits,
)
from orchestrator.policy.queueing.desk import Desk, Start
from orchestrator.policy.queueing.fill import fill
from orchestrator.policy.queueing.forced import Forced, force, night_ends_s
from orchestrator.policy.queueing.gates import Gatekeeper, closes_at_s, next_opening_s
from orchestrator.policy.queueing.growth import pays
from orchestrator.policy.queueing.headroom import call_back
from orchestrator.policy.queueing.roll import Roll
from orchestrator.policy.queueing.serving import is_owed, settle_endpoints
from orchestrator.policy.queueing.values import Job, Snapshot
from orchestrator.policy.resize import ResizeState

_JOB = attrgetter("job")


def _first(group: Waits) -> str:
    return group.jobs[0]


@dataclass(slots=True)
class _Outcome:
    """One complete attempt at a decision."""

    board: Board
    forced: Forced
    desk: Desk
    gated: list[Waits]


def decide_queues(snapshot: Snapshot, roll: Roll | None = None) -> Decisions:
    """Decide for every waiting and running job of a snapshot; with the roll of the decision before, the same sooner.

    Holds: one verdict per waiting job; devices given out never exceed those that are free; draining ones stay charged.
    """
    roll = Roll() if roll is None else roll
    roll.take(snapshot.waiting)
    refused: frozenset[str] = frozenset()
    kept: dict[str, ResizeState] = {}
    while True:
        outcome = _attempt(snapshot, roll, refused)
        states, futile = _ask_resize(outcome, refused)
        if not futile:
            return _write_down(outcome, kept | states)
        # What was offered is remembered, also where it is refused for now: an offer that must settle would else be new
        # in every cycle.
        kept |= {job: states[job] for job in futile}
        # What growth does not repay is for those who wait: everything again without it.
        refused |= futile


def _attempt(snapshot: Snapshot, roll: Roll, refused: frozenset[str]) -> _Outcome:
    board = set_up(snapshot)
    forced = force(board)
    settle_endpoints(board, forced)
    call_back(board, forced)
    passed, gated = Gatekeeper(board).part(roll)
    desk = Desk(board, roll)
    fill(desk, passed, _growing(board, forced, refused))
    return _Outcome(board, forced, desk, gated)


def _growing(board: Board, forced: Forced, refused: frozenset[str]) -> list[Job]:
    """Running jobs that could use more devices and are there to be given some. Of a queue on hold only endpoints are:
    who holds it wants no new work there, and requests are not his to refuse."""
    if all(ground.total_free <= 0 for ground in board.grounds.values()):
        return []
    return [
        one.running.job
        for one in board.sittings.values()
        if (queue := board.queues.get(one.running.job.queue)) is not None
        and (not queue.on_hold or one.job.serves)
        and (not one.changed or one.job.id in forced.moves)
        and one.workers < one.job.sizes[-1]
        and one.job.id not in refused
        and one.job.active
        and not (one.job.serves and is_owed(board, one))
    ]


def _ask_resize(outcome: _Outcome, refused: frozenset[str]) -> tuple[dict[str, ResizeState], frozenset[str]]:
    """What resizing says to every growth, and the jobs for which it says no."""
    states: dict[str, ResizeState] = {}
    futile: set[str] = set()
    for sitting in outcome.board.sittings.values():
        job_id, now_s = sitting.job.id, outcome.board.snapshot.now_s
        if sitting.running.tempo is None or job_id in outcome.forced.evictions or job_id in outcome.forced.moves:
            continue
        before = workers_before(sitting)
        chosen, state = pays(sitting, max(sitting.workers, before), now_s)
        if chosen < sitting.workers and sitting.workers > before:
            futile.add(job_id)
        if state is not None and job_id not in refused:
            states[job_id] = state
    return states, frozenset(futile)


def _write_down(outcome: _Outcome, states: dict[str, ResizeState]) -> Decisions:
    waits = _waits(outcome)
    changes = [*outcome.forced.evictions.values(), *_changes(outcome)]
    return Decisions(
        starts=tuple(sorted(_starts(outcome), key=_JOB)),
        waits=tuple(sorted([*waits, *outcome.gated], key=_first)),
        changes=tuple(sorted(changes, key=_JOB)),
        claims=tuple(sorted(outcome.desk.claimed, key=_JOB)),
        promises=tuple(sorted(outcome.desk.promised.values(), key=_JOB)),
        resize_states=tuple(sorted(states.items())),
        wake_at_s=_wake_at_s(outcome, waits, changes),
    )


def _starts(outcome: _Outcome) -> Iterable[Admit]:
    for start in outcome.desk.starts.values():
        job = start.sitting.job
        until_s = closes_at_s(outcome.board, job)
        yield Admit(
            job=job.id,
            placement=outcome.board.placement(job, start.sitting.seats),
            reason=start.reason,
            detail=_start_detail(start) + _course(job, outcome.board.snapshot.now_s, until_s),
            reserve=start.reserve,
            until_s=until_s,
        )


def _start_detail(start: Start) -> str:
    job, pools = start.sitting.job, ", ".join(sorted(start.sitting.seats))
    return f"{start.sitting.workers} workers of {job.sizes[0]}..{job.sizes[-1]} in {pools}"


def _course(job: Job, now_s: float, until_s: float | None) -> str:
    """How the night goes on that begins with this start, where its job has nights of which something is known."""
    if until_s is None or job.ending == NO_ENDING:
        return ""
    plan = plan_session(job.ending, begins_s=now_s, until_s=until_s, min_slice_s=job.min_slice_s)
    if not isinstance(plan, SessionPlan):
        return ""
    lasts = f"; {plan.train_until_s - now_s:.0f} s of training in window {job.window!r}"
    return f"{lasts}, evaluation waits for another night" if plan.deferred else f"{lasts}, then what ends a night"


def _waits(outcome: _Outcome) -> list[Waits]:
    """What those wait for who passed the gates: some have an answer of their own, all others share theirs."""
    desk, apart = outcome.desk, dict[str, set[str]]()
    for group in outcome.gated:
        apart.setdefault(desk.roll.jobs[group.jobs[0]].queue, set()).update(group.jobs)
    for name in (*desk.waits, *desk.starts):
        apart.setdefault(desk.roll.jobs[name].queue, set()).add(name)
    return [*(Waits((job,), why) for job, why in desk.waits.items()), *desk.known.shared(apart)]


def _changes(outcome: _Outcome) -> Iterable[Change]:
    told: set[str] = set()
    for claim in outcome.desk.claims:
        for victim in {id(one.victim): one.victim for one in claim.demands}.values():
            told.add(victim.job.id)
            yield _asked_back(outcome.board, claim, victim)
    now_s = outcome.board.snapshot.now_s
    for sitting in outcome.board.sittings.values():
        job = sitting.job
        cause, until_s = outcome.forced.moves.get(job.id, (ChangeCause.GROWS, now_s))
        moved = job.id in outcome.forced.moves or (sitting.changed and sitting.workers > workers_before(sitting))
        if moved and job.id not in told and job.id not in outcome.forced.evictions:
            detail = f"{workers_before(sitting)} -> {sitting.workers} workers"
            placement = outcome.board.placement(job, sitting.seats)
            yield Resize(job=job.id, placement=placement, cause=cause, detail=detail, drain_until_s=until_s)


def _asked_back(board: Board, claim: Claim, victim: Sitting) -> Change:
    demands = [one for one in claim.demands if one.victim is victim]
    until_s = board.snapshot.now_s + claim.grace_s
    detail = f"{claim.job.id} starts on its devices"
    job = victim.job.id
    if any(one.stop for one in demands):
        cause = next(one.cause for one in demands if one.stop)
        return Evict(job=job, cause=cause, detail=detail, drain_until_s=until_s, for_job=claim.job.id)
    placement = board.placement(victim.job, victim.seats)
    return Resize(
        job=job,
        placement=placement,
        cause=demands[0].cause,
        detail=detail,
        drain_until_s=until_s,
        for_job=claim.job.id,
    )


def _wake_at_s(outcome: _Outcome, waits: Iterable[Waits], changes: Iterable[Change]) -> float | None:
    """When something changes by itself: a window, a drain, an end of a minimum run time, a promised start."""
    board, now_s = outcome.board, outcome.board.snapshot.now_s
    instants = [until_s for ground in board.grounds.values() for until_s, _, _ in ground.drains]
    instants += [one.drain_until_s for one in changes if isinstance(one, Evict) or one.cause is not ChangeCause.GROWS]
    instants += [group.why.eta_s for group in waits if group.why.eta_s is not None]
    instants += [
        one.running.started_s + board.queues[one.job.queue].min_run_s
        for one in board.sittings.values()
        if one.job.queue in board.queues
    ]
    ends = (night_ends_s(board, one) for one in board.sittings.values() if one.job.window is not None)
    instants += [instant for instant in ends if instant is not None]
    opening_s = next_opening_s(board)
    instants += [] if opening_s is None else [opening_s]
    return min((instant for instant in instants if instant > now_s), default=None)
