"""EASY backfill: the head is promised a start, and nobody starts in between who would delay it.

The head of a cohort is its first job, in order, that does not fit now. Its start is computed from the expected ends of
what runs; seats and quota are set aside from that time on. A later job may start now if it ends before, or if it
needs nothing of what is set aside. Source: Lifka, ANL/IBM SP scheduling (1995); ours: per node and with quotas,
so that a promise also holds for a job that must sit close together. Shapes: N nodes, E devices' expected returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.ground import Devices, Ground, Taken
from orchestrator.policy.queueing.quota import Account
from orchestrator.policy.queueing.seating import seat
from orchestrator.policy.queueing.values import Job, LeaseState

_ANY = 1 << 60


@dataclass(slots=True)
class Promise:
    """A start promised to a job at `at_s`; what is left at that time beside it, on nodes and of quota."""

    job: str
    queue: str
    cohort: str | None
    at_s: float
    spare: Devices
    spare_devices: int
    own_spare: int
    store_spare: int


@dataclass(frozen=True, slots=True)
class Returns:
    """Devices of one pool that are expected back, soonest first: when, on which node, how many, to whose quota.

    `ends` are the instants of `at`, each once.
    """

    at: NDArray[np.float64]
    ends: NDArray[np.float64]
    node: NDArray[np.int64]
    devices: NDArray[np.int64]
    usable: NDArray[np.bool_]
    queue: tuple[str | None, ...]


def expected_end_s(job: Job, workers: int, now_s: float, unknown_run_s: float) -> float:
    """When a job that has so many workers from now on is done; a job of which nothing is known gets the usual."""
    return now_s + (unknown_run_s if job.work_s is None else job.work_s / max(workers, 1))


def returns(board: Board, pool: str) -> Returns:
    """Everything held or draining in a pool with an expected end, and what was started in this decision."""
    rows: list[tuple[float, str, int, int, str | None]] = []
    ground = board.grounds[pool]
    for lease in board.leases[pool]:
        end_s = _end_s(board, lease.holder, lease.until_s if lease.state is LeaseState.DRAINING else None)
        if end_s is not None:
            for name, devices in lease.nodes:
                at = ground.index.get(name, -1)
                rows.append((end_s, lease.holder, at, devices, lease.queue))
    for job, end_s, where, taken in board.started:
        if where == pool:
            rows += [(end_s, job.id, at, devices, job.queue) for at, devices in taken]
    rows.sort(key=lambda row: row[:3])
    nodes = np.array([row[2] for row in rows], dtype=np.int64)
    at_s = np.array([row[0] for row in rows], dtype=np.float64)
    return Returns(
        at=at_s,
        ends=np.unique(at_s),
        node=nodes,
        devices=np.array([row[3] for row in rows], dtype=np.int64),
        usable=(nodes >= 0) & ground.ok[np.maximum(nodes, 0)]
        if rows and ground.ok.size
        else np.zeros(len(rows), dtype=bool),
        queue=tuple(row[4] for row in rows),
    )


def _end_s(board: Board, holder: str, until_s: float | None) -> float | None:
    now_s = board.snapshot.now_s
    if until_s is not None:
        return max(until_s, now_s)
    sitting = board.sittings.get(holder)
    if sitting is None:
        return None
    return expected_end_s(sitting.job, sitting.workers, now_s, board.snapshot.rules.unknown_run_s)


def promise(board: Board, job: Job, expected: dict[str, Returns]) -> tuple[str, Promise] | None:
    """The earliest start that can be promised to a job, and where; None if nothing that is known would ever do.

    `expected` holds the returns of pools that were asked about before; this adds to it.
    """
    best: tuple[str, Promise] | None = None
    for pool in board.candidates(job):
        if board.grounds[pool].pool.in_sight:
            if pool not in expected:
                expected[pool] = returns(board, pool)
            found = _promise_in(board, job, pool, expected[pool], None if best is None else best[1].at_s)
            if found is not None:
                best = (pool, found)
    return best


def _promise_in(board: Board, job: Job, pool: str, expected: Returns, before_s: float | None) -> Promise | None:
    """The earliest start, if there is one (earlier than `before_s`).

    Bisects over the returns: with every return there is more room, so the first that does is well defined.
    """
    ends = expected.ends
    low, high = 0, (len(ends) if before_s is None else int(np.searchsorted(ends, before_s))) - 1
    if high < 0 or _at(board, job, pool, expected, float(ends[high])) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        if _at(board, job, pool, expected, float(ends[middle])) is None:
            low = middle + 1
        else:
            high = middle
    return _at(board, job, pool, expected, float(ends[low]))


def _at(board: Board, job: Job, pool: str, expected: Returns, at_s: float) -> Promise | None:
    """A start at `at_s`, if the devices and the quota that are back by then are enough."""
    ground = board.grounds[pool]
    num_back = int(np.searchsorted(expected.at, at_s, side="right"))
    free_N = _free_at(ground, expected, num_back)
    spare = int(free_N.sum()) - ground.pool.headroom - job.min_devices
    if spare < 0:
        return None
    account = _account_at(board, job, pool, expected.queue[:num_back], expected.devices[:num_back].tolist())
    by_right = board.now.shares.own_available(job.tenant, pool) >= job.min_devices
    own_spare = _ANY if by_right else account.available - job.min_devices
    if own_spare < 0:
        return None
    taken = seat(board, job, ground, free_N, job.sizes[0])
    if taken is None:
        return None
    return Promise(
        job=job.id,
        queue=job.queue,
        cohort=board.queues[job.queue].cohort,
        at_s=at_s,
        spare=_less(free_N, taken),
        spare_devices=spare,
        own_spare=own_spare,
        store_spare=_ANY if by_right else account.store.lendable - account.store.used - account.draw(job.min_devices),
    )


def _free_at(ground: Ground, expected: Returns, num_back: int) -> Devices:
    back = expected.usable[:num_back]
    nodes, devices = expected.node[:num_back][back], expected.devices[:num_back][back]
    added = np.bincount(nodes, weights=devices, minlength=len(ground.names)) if len(nodes) else 0
    # What somebody has a claim to comes back, too, but not for others.
    left_N: Devices = np.maximum(ground.free + added - ground.claimed, 0).astype(np.int64)
    return left_N


def _less(free_N: Devices, taken: Taken) -> Devices:
    left_N = free_N.copy()
    for at, devices in taken:
        left_N[at] -= devices
    return left_N


def _account_at(board: Board, job: Job, pool: str, queues: tuple[str | None, ...], devices: list[int]) -> Account:
    """The queue's account in that pool once everything so far is back; the board's own is left as it is."""
    mine = board.account(job.queue, pool)
    back: dict[str, int] = {}
    for queue, count in zip(queues, devices, strict=True):
        if queue is not None:
            back[queue] = back.get(queue, 0) + count
    freed = 0
    for queue, count in back.items():
        other = board.now.quotas.accounts.get((queue, pool))
        if other is not None and other.store is mine.store:
            freed -= other.draw(-count)
    store = type(mine.store)(lendable=mine.store.lendable, used=mine.store.used - freed)
    return Account(mine.nominal, mine.guaranteed, mine.borrow, store, mine.used - back.get(job.queue, 0))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What promises leave to a job that ends at some time: devices per node (None = all that are free), in all, and of
    its queue's quota."""

    limit: Devices | None
    devices: int
    quota: int


@dataclass(frozen=True, slots=True)
class Freed:
    """Devices of one pool that a claim takes off a job whose end was expected at `end_s`."""

    end_s: float
    queue: str
    seats: Taken

    @property
    def devices(self) -> int:
        """Devices on all nodes."""
        return sum(devices for _, devices in self.seats)


def allowance(
    promises: Sequence[Promise], board: Board, job: Job, pool: str, end_s: float, freed: Sequence[Freed] = ()
) -> Allowance:
    """What a job may take without delaying anybody who was promised a start before `end_s`.

    `freed`: what others give up for it; where they would have stayed beyond a promised start, that is not taken from
    it. What the job takes from its cohort's store is counted as of now: other users only leave until then, so this
    is never less than what it will be.
    """
    binding = [one for one in promises if one.at_s < end_s and one.job != job.id]
    if not binding:
        return Allowance(None, _ANY, _ANY)
    late = [[one for one in freed if one.end_s > promised.at_s] for promised in binding]
    spares = [_with(one.spare, more) for one, more in zip(binding, late, strict=True)]
    account = board.account(job.queue, pool)
    # Guaranteed devices that are not in use come from nobody's store.
    beside_store = max(0, account.guaranteed - account.used)
    devices = quota = _ANY
    for one, more in zip(binding, late, strict=True):
        gained = sum(each.devices for each in more)
        devices = min(devices, one.spare_devices + gained)
        if one.queue == job.queue:
            quota = min(quota, one.own_spare + gained)
        elif _trade(board, one, job):
            quota = min(quota, one.store_spare + beside_store + gained)
    limit_N = spares[0] if len(spares) == 1 else np.minimum.reduce(spares)
    return Allowance(limit_N, max(0, devices), max(0, quota))


def _with(spare_N: Devices, more: Sequence[Freed]) -> Devices:
    if not more:
        return spare_N
    sum_N = spare_N.copy()
    for each in more:
        for at, devices in each.seats:
            sum_N[at] += devices
    return sum_N


def _trade(board: Board, promised: Promise, job: Job) -> bool:
    """Whether a job draws on the store that a promise counts on."""
    cohort = board.queues[job.queue].cohort
    return promised.queue == job.queue or (cohort is not None and promised.cohort == cohort)


def consume(
    promises: Sequence[Promise],
    board: Board,
    job: Job,
    end_s: float,
    taken: Taken,
    draw: int,
    freed: Sequence[Freed] = (),
) -> None:
    """Count what a job will still hold when promised starts come, and what others will not."""
    devices = sum(count for _, count in taken)
    for one in promises:
        if one.at_s < end_s and one.job != job.id:
            late = [each for each in freed if each.end_s > one.at_s]
            gained = sum(each.devices for each in late)
            one.spare = _with(one.spare, late)
            for at, count in taken:
                one.spare[at] -= count
            one.spare_devices -= devices - gained
            if one.queue == job.queue:
                one.own_spare -= devices - gained
            if _trade(board, one, job):
                one.store_spare -= draw - gained
