"""Does a job fit now, at which size and where; and if not, what is in its way?

In every pool the same questions are asked in the same order: sight, largest quota, quota, devices, promises, purse,
places. A job's reason is the question at which the pool that came furthest said no.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.decisions import Explanation, WaitReason
from orchestrator.policy.queueing.ground import Devices, Ground, Taken
from orchestrator.policy.queueing.money import asked, contents, expected_bill, less, reserve_from
from orchestrator.policy.queueing.parties import NOTHING, Purse
from orchestrator.policy.queueing.promises import Allowance, Promise, allowance, expected_end_s
from orchestrator.policy.queueing.seating import seat
from orchestrator.policy.queueing.values import Coupling, Job


@dataclass(frozen=True, slots=True)
class Fit:
    """Seats for a start: devices per node in every pool that is used, and what is set aside in the tenant's purse."""

    seats: tuple[tuple[str, Taken], ...]
    workers: int
    reserve: Purse
    end_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pool does not do; the higher the stage, the nearer it came."""

    stage: int
    why: Explanation


_NO_FURTHER = Refusal(0, Explanation(WaitReason.PENDING_EVALUATION, "another pool came nearer"))
# The furthest that counting devices gets.
_MOST_OF_DEVICES = 5


@dataclass(slots=True)
class Fitter:
    """Fits jobs onto a board under the promises made so far, by pool."""

    board: Board
    promises: dict[str, list[Promise]] = field(default_factory=dict)
    _near: dict[tuple[Coupling, tuple[str, ...]], list[tuple[str, ...]]] = field(default_factory=dict)

    def fit(self, job: Job, most_workers: int, pools: tuple[str, ...] | None = None) -> Fit | Explanation:
        """The largest useful size up to `most_workers` (never below the minimum) that fits now, in the cheapest pool
        that takes the job; a job that may spread does so only if no pool takes it whole."""
        pools = self.board.candidates(job) if pools is None else pools
        if not pools:
            return Explanation(WaitReason.NO_MATCHING_POOL, f"no pool of queue {job.queue!r} has {job.resource} for it")
        furthest: Refusal | None = None
        for pool in pools:
            found = self._in_pool(job, pool, most_workers, 0 if furthest is None else furthest.stage)
            if isinstance(found, Fit):
                return found
            if furthest is None or found.stage > furthest.stage:
                furthest = found
        assert furthest is not None, "there was a pool to ask"
        if job.coupling is Coupling.TIGHT or len(pools) == 1:
            return furthest.why
        return self._spread(job, pools) or self._unspread(job, pools, furthest)

    def _in_pool(self, job: Job, pool: str, most_workers: int, reached: int) -> Fit | Refusal:
        refusal = self._bounds(job, pool, reached)
        if refusal is not None:
            return refusal
        ground, board = self.board.grounds[pool], self.board
        reserve = self._reserve(job, ground)
        if isinstance(reserve, Explanation):
            return Refusal(6, reserve)
        limit = min(self._quota(job, pool), ground.total_free)
        for sizes in self._trials(job, pool, most_workers):
            end_s = expected_end_s(job, sizes[0], board.snapshot.now_s, board.snapshot.rules.unknown_run_s)
            allowed = allowance(self.promises.get(pool, []), board, job, pool, end_s)
            found = self._seats(job, ground, min(limit, allowed.devices, allowed.quota), allowed, sizes)
            if found is not None:
                workers = sum(devices for _, devices in found) // job.devices_per_worker
                return Fit(seats=((pool, found),), workers=workers, reserve=reserve, end_s=end_s)
        return self._no_seats(job, ground)

    def _trials(self, job: Job, pool: str, most_workers: int) -> Iterator[tuple[int, ...]]:
        """Sizes to try together. What the longest stay may take, every size may take; where promises forbid that, a
        larger start may end soon enough."""
        allowed = tuple(size for size in job.sizes if size <= max(most_workers, job.sizes[0]))
        yield allowed
        if self.promises.get(pool):
            yield from ((size,) for size in reversed(allowed[1:]))

    def _seats(
        self, job: Job, ground: Ground, devices: int, allowed: Allowance, sizes: tuple[int, ...]
    ) -> Taken | None:
        free_N = ground.free if allowed.limit is None else np.minimum(ground.free, allowed.limit)
        for size in reversed(sizes):
            if size * job.devices_per_worker <= devices:
                taken = seat(self.board, job, ground, free_N, size)
                if taken is not None:
                    return taken
        return None

    def _quota(self, job: Job, pool: str) -> int:
        return self._rooms(job, pool)[1]

    def _most_ever(self, job: Job, pool: str) -> int:
        return self._rooms(job, pool)[0]

    def _rooms(self, job: Job, pool: str) -> tuple[int, int]:
        """Devices that a job's queue and tenant could ever have in a pool, and those that they may take now."""
        account, owned = self.board.account(job.queue, pool), self.board.now.shares.owned.get((job.tenant, pool))
        if owned is None:
            return account.most_ever, account.available
        return max(account.most_ever, owned.contributed), max(account.available, owned.available)

    def _bounds(self, job: Job, pool: str, reached: int) -> Refusal | None:
        """What can be said by counting alone; nothing is said of a pool that comes no further than another one did."""
        need, ground = job.min_devices, self.board.grounds[pool]
        if not ground.pool.in_sight:
            return Refusal(2, Explanation(WaitReason.PENDING_EVALUATION, f"pool {pool!r} is out of sight", pool=pool))
        most_ever, quota = self._rooms(job, pool)
        if need > most_ever:
            if reached >= 1:
                return _NO_FURTHER
            detail = f"needs {need} devices; queue {job.queue!r} can have {most_ever} of pool {pool!r} at most"
            return Refusal(1, _short(WaitReason.EXCEEDS_MAX_QUOTA, detail, pool, need - most_ever, of_quota=True))
        if need > quota:
            if reached >= 3:
                return _NO_FURTHER
            detail = f"needs {need} devices of pool {pool!r}; {quota} are left in the quota of queue {job.queue!r}"
            return Refusal(3, _short(WaitReason.WAITING_FOR_QUOTA, detail, pool, need - quota, of_quota=True))
        if need <= ground.total_free:
            return None
        return _NO_FURTHER if reached >= _MOST_OF_DEVICES else self._devices(need, ground)

    def _devices(self, need: int, ground: Ground) -> Refusal:
        free, pool = ground.total_free, ground.pool
        kept = pool.headroom + pool.passing
        if need <= free + kept:
            detail = f"{need} devices of pool {pool.name!r} are free, but {kept} are kept for endpoints"
            return Refusal(5, _short(WaitReason.SERVE_HEADROOM, detail, pool.name, need - free))
        held_back = int(ground.held_back.sum())
        if held_back and need <= free + held_back:
            detail = f"{held_back} devices of pool {pool.name!r} stand on nodes that are held back"
            return Refusal(5, _short(WaitReason.NODE_HEALTH_HOLD, detail, pool.name, need - free))
        detail = f"needs {need} devices of pool {pool.name!r} together; {max(free, 0)} are free"
        return Refusal(4, _short(WaitReason.GANG_INCOMPLETE, detail, pool.name, need - free))

    def _no_seats(self, job: Job, ground: Ground) -> Refusal:
        """There are enough devices by number: who or what keeps the job off them?"""
        pool = ground.pool.name
        if seat(self.board, job, ground, ground.free, job.sizes[0]) is not None:
            return Refusal(8, self._delaying(job, pool))
        whole_N = ground.free + ground.held_back
        if seat(self.board, job, ground, whole_N, job.sizes[0]) is not None:
            detail = f"would sit close enough in pool {pool!r} only on nodes that are held back"
            return Refusal(7, _short(WaitReason.NODE_HEALTH_HOLD, detail, pool, job.min_devices))
        detail = (
            f"{ground.total_free} devices of pool {pool!r} are free, but not {job.min_devices} close enough together"
        )
        return Refusal(7, _short(WaitReason.TOPOLOGY_PLACEMENT_FAILED, detail, pool, job.min_devices))

    def _delaying(self, job: Job, pool: str) -> Explanation:
        """Whom it would delay, and whether by taking devices or by using up quota."""
        first = min(self.promises[pool], key=lambda one: (one.at_s, one.job))
        detail = f"would delay {first.job}, which is promised a start in {first.at_s - self._now_s:.0f} s"
        end_s = expected_end_s(job, job.sizes[0], self._now_s, self.board.snapshot.rules.unknown_run_s)
        allowed = allowance(self.promises[pool], self.board, job, pool, end_s)
        of_quota = allowed.quota < job.min_devices
        why = _short(WaitReason.BACKFILL_RESERVATION, detail, pool, job.min_devices)
        return replace(why, of_quota=of_quota)

    @property
    def _now_s(self) -> float:
        return self.board.snapshot.now_s

    def unpaid(self, job: Job, pool: str) -> Explanation | None:
        """Why a job's tenant could not pay for it in a pool, even if it had devices there; None if it could."""
        found = self._reserve(job, self.board.grounds[pool])
        return found if isinstance(found, Explanation) else None

    def _reserve(self, job: Job, ground: Ground) -> Purse | Explanation:
        """What the job's tenant sets aside for it; nothing where the house pays."""
        purse = self.board.purses.get(job.tenant)
        if purse is None:
            return Purse()
        rules, price = self.board.snapshot.rules, ground.pool.micro_usd_per_device_hour
        cost = expected_bill(job, job.sizes[0], rules.unknown_run_s, price)
        aside = self.board.reserved.get(job.tenant, NOTHING)
        free = less(purse, aside)
        reserve = reserve_from(free, job, cost)
        if reserve is not None:
            return reserve
        needs = f"needs {asked(job, cost, rules.unknown_run_s)}"
        if reserve_from(purse, job, cost) is not None:
            detail = f"{needs}; what tenant {job.tenant!r} has of it is set aside for its other jobs"
            return Explanation(WaitReason.BUDGET_RESERVED, detail, pool=ground.pool.name)
        kept = "" if aside == NOTHING else f", {contents(aside)} of it set aside for its other jobs"
        detail = f"{needs}; tenant {job.tenant!r} has {contents(purse)} left of what it was granted{kept}"
        return Explanation(WaitReason.BUDGET_EXHAUSTED, detail, pool=ground.pool.name)

    def _spread(self, job: Job, pools: tuple[str, ...]) -> Fit | None:
        """The minimum over several pools of one kind of device, cheapest first."""
        for group in self._groups(job, pools):
            if self._most_together(job, group) < job.sizes[0]:
                continue
            seats, missing, end_s = self._gather(job, group)
            if missing == 0:
                reserve = self._reserve(job, self.board.grounds[group[-1]])
                if isinstance(reserve, Purse):
                    return Fit(seats=seats, workers=job.sizes[0], reserve=reserve, end_s=end_s)
        return None

    def _most_together(self, job: Job, group: tuple[str, ...]) -> int:
        """A bound that costs little: workers for which the pools of a group have devices and quota."""
        rooms = (min(self.board.grounds[pool].total_free, self._quota(job, pool)) for pool in group)
        return sum(max(0, room) // job.devices_per_worker for room in rooms)

    def _unspread(self, job: Job, pools: tuple[str, ...], furthest: Refusal) -> Explanation:
        """A job that no pool could ever take whole is only too large if several pools could not, either."""
        if furthest.stage > 1:
            return furthest.why
        groups = self._groups(job, pools)
        if all(self._lacking(job, {pool: self._most_ever(job, pool) for pool in group}) for group in groups):
            return furthest.why
        quotas = [{pool: self._quota(job, pool) for pool in group} for group in groups]
        nearest = min(quotas, key=lambda rooms: self._lacking(job, rooms))
        if lacking := self._lacking(job, nearest):
            detail = f"needs {job.min_devices} devices over several pools; its queue's quotas in them leave too few"
            pool = max(nearest, key=lambda name: nearest[name])
            return _short(WaitReason.WAITING_FOR_QUOTA, detail, pool, lacking * job.devices_per_worker, of_quota=True)
        detail = f"needs {job.min_devices} devices over several pools; not as many can be had together now"
        beyond = {name: min(quota, job.min_devices) - self._slots(job, name) for name, quota in nearest.items()}
        pool = max(beyond, key=lambda name: beyond[name])
        return _short(WaitReason.GANG_INCOMPLETE, detail, pool, max(1, beyond[pool]))

    def _lacking(self, job: Job, rooms: dict[str, int]) -> int:
        """Workers for which so many devices in every pool of a group are too few, by the rule of `_gather`."""
        missing = job.sizes[0]
        for room in rooms.values():
            most = min(room // job.devices_per_worker, missing)
            missing -= most if most >= self._least(job, missing) else 0
        return missing

    def _least(self, job: Job, missing: int) -> int:
        """Fewest workers in one of several pools, with so many still without a seat."""
        island = self.board.snapshot.rules.island_min_workers if job.coupling is Coupling.MODULAR else 1
        return max(1, min(island, missing))

    def _slots(self, job: Job, pool: str) -> int:
        """Devices of a pool that whole workers can use now."""
        ground, per_worker = self.board.grounds[pool], job.devices_per_worker
        return min(ground.total_free, int((ground.free // per_worker).sum()) * per_worker)

    def _groups(self, job: Job, pools: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Pools over which the coupling lets a job spread: same device, and near enough to each other."""
        key = (job.coupling, pools)
        if key not in self._near:
            self._near[key] = self._find_groups(job, pools)
        return self._near[key]

    def _find_groups(self, job: Job, pools: tuple[str, ...]) -> list[tuple[str, ...]]:
        groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        shared = self.board.depths[job.coupling]
        for name in pools:
            ground = self.board.grounds[name]
            if ground.paths and ground.pool.in_sight:
                groups.setdefault((ground.pool.device, ground.paths[0][:-1][:shared]), []).append(name)
        return [tuple(group) for group in groups.values() if len(group) > 1]

    def _gather(self, job: Job, group: tuple[str, ...]) -> tuple[tuple[tuple[str, Taken], ...], int, float]:
        board, missing = self.board, job.sizes[0]
        end_s = expected_end_s(job, missing, self._now_s, board.snapshot.rules.unknown_run_s)
        seats: list[tuple[str, Taken]] = []
        rooms = [self._room(job, pool, end_s) for pool in group]
        if sum(most for most, _ in rooms) < missing:
            return (), missing, end_s
        for pool, (most, free_N) in zip(group, rooms, strict=True):
            for workers in range(min(most, missing), self._least(job, missing) - 1, -1):
                taken = seat(board, job, board.grounds[pool], free_N, workers)
                if taken is not None:
                    seats.append((pool, taken))
                    missing -= workers
                    break
            if not missing:
                break
        return tuple(seats), missing, end_s

    def _room(self, job: Job, pool: str, end_s: float) -> tuple[int, Devices]:
        """Workers for which a pool has devices and quota under the promises made, and what is free for them."""
        ground = self.board.grounds[pool]
        allowed = allowance(self.promises.get(pool, []), self.board, job, pool, end_s)
        room = min(ground.total_free, allowed.devices, allowed.quota, self._quota(job, pool))
        free_N = ground.free if allowed.limit is None else np.minimum(ground.free, allowed.limit)
        slots = int((free_N // job.devices_per_worker).sum())
        return max(0, min(room // job.devices_per_worker, slots)), free_N


def _short(reason: WaitReason, detail: str, pool: str, missing: int, *, of_quota: bool = False) -> Explanation:
    return Explanation(reason, detail, pool=pool, missing=missing, of_quota=of_quota)
