"""One attempt at a claim: collect demands until the job would fit, drop those it can do without, or undo everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.policy.queueing.board import Board, Sitting, workers_before
from orchestrator.policy.queueing.deadlines import floor_workers
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.ground import Devices, Ground, Taken
from orchestrator.policy.queueing.promises import Freed, Promise, allowance, expected_end_s
from orchestrator.policy.queueing.rights import Rights, fair_surplus
from orchestrator.policy.queueing.seating import seat


@dataclass(frozen=True, slots=True)
class Demand:
    """What a victim is asked for: devices per node to give back, by pool, and by which right."""

    victim: Sitting
    seats: tuple[tuple[str, Taken], ...]
    cause: ChangeCause
    stop: bool


@dataclass(slots=True)
class Attempt:
    """A start of `size` workers in one pool, by rights. `freed`: devices asked back so far, per node that is of use."""

    board: Board
    rights: Rights
    size: int
    promises: Sequence[Promise] = ()
    demands: list[Demand] = field(default_factory=list)
    ground: Ground = field(init=False)
    freed: Devices = field(init=False)
    _freed_devices: int = 0
    _draining: int = 0

    def __post_init__(self) -> None:
        self.ground = self.board.grounds[self.rights.pool]
        self.freed = np.zeros_like(self.ground.free)
        self._draining = int(self.ground.draining.sum())

    def find(self, victims: list[Sitting], *, claimed: bool = False) -> Taken | None:
        """Where the job would sit, with `demands` as the price; None if no right gets that far, and nothing changed.

        `claimed`: what drains was asked back for this job.
        """
        taken = self._fits()
        if taken is not None:
            # Drains under way are meant for somebody's minimum, or for what its owner has a right to.
            rightful = claimed or self.rights.by_recall or self.rights.within_nominal
            return taken if rightful or self.size == self.rights.job.sizes[0] else None
        if not self._could_do(victims):
            return None
        taken = self._collect(victims, stop=False) or self._collect(victims, stop=True)
        if taken is None:
            for demand in list(self.demands):
                self._withdraw(demand)
            return None
        return self._drop_needless(taken)

    def _could_do(self, victims: list[Sitting]) -> bool:
        """A bound that costs nothing: with everything that everybody holds, would there be enough?"""
        held = sum(victim.in_pool(self.rights.pool) for victim in victims)
        return bool(victims) and held >= self._missing()

    def _collect(self, victims: list[Sitting], *, stop: bool) -> Taken | None:
        for victim in victims:
            demand = self._stop(victim) if stop else self._shrink(victim)
            if demand is not None:
                self._make(demand)
                if (taken := self._fits()) is not None:
                    return taken
        return None

    def _shrink(self, victim: Sitting) -> Demand | None:
        if len(victim.running.job.sizes) == 1:
            return None
        cause = self.rights.over(victim, stop=False)
        if cause is None:
            return None
        most = victim.in_pool(self.rights.pool)
        if cause is ChangeCause.FAIR_SHARE:
            fair = fair_surplus(self.board, victim, self.rights.job, self.rights.need)
            most = min(most, fair, self._beside_deadline(victim))
        if victim.job.id in self.rights.ranking.owned:
            most = min(most, self.rights.owner_surplus(victim))
        seats = _surplus(victim, self.rights.pool, self._missing(), most)
        return Demand(victim, ((self.rights.pool, seats),), cause, stop=False) if seats else None

    def _beside_deadline(self, victim: Sitting) -> int:
        """Devices a victim holds beyond what its deadline asks."""
        floor = floor_workers(victim.job, now_s=self.board.snapshot.now_s)
        return max(0, victim.devices - floor * victim.job.devices_per_worker)

    def _stop(self, victim: Sitting) -> Demand | None:
        cause = self.rights.over(victim, stop=True)
        if cause is None or not victim.devices:
            return None
        everything = ((pool, tuple(sorted(nodes.items()))) for pool, nodes in sorted(victim.seats.items()) if nodes)
        return Demand(victim, tuple(everything), cause, stop=True)

    def _make(self, demand: Demand) -> None:
        self._move(demand, -1)
        self.demands.append(demand)

    def _withdraw(self, demand: Demand) -> None:
        self._move(demand, +1)
        self.demands.remove(demand)

    def _move(self, demand: Demand, sign: int) -> None:
        """Take seats off a victim (-1) or give them back (+1), on the books of later and on its own."""
        victim = demand.victim
        for pool, seats in demand.seats:
            nodes = victim.seats.setdefault(pool, {})
            for at, devices in seats:
                nodes[at] = nodes.get(at, 0) + sign * devices
                if not nodes[at]:
                    del nodes[at]
                if pool == self.rights.pool and self.ground.ok[at]:
                    self.freed[at] -= sign * devices
                    self._freed_devices -= sign * devices
            total = sum(devices for _, devices in seats)
            self.board.later.charge(victim.job.queue, victim.job.tenant, self.board.grounds[pool].pool, sign * total)

    def _drop_needless(self, taken: Taken) -> Taken:
        """Spare victims that turned out not to be needed, the costliest first; one that was stopped after it was
        shrunk is one victim and stays."""
        for demand in reversed(list(self.demands)):
            if sum(one.victim is demand.victim for one in self.demands) == 1:
                self._withdraw(demand)
                fits = self._fits()
                if fits is None:
                    self._make(demand)
                else:
                    taken = fits
        return taken

    def _missing(self) -> int:
        """Devices that are still wanting, of the pool or of the quota, whichever are more."""
        return self.rights.need - min(self._coming(), self._quota())

    def _coming(self) -> int:
        return self.ground.total_free + self._draining + self._freed_devices

    def _quota(self) -> int:
        later, job, pool = self.board.later, self.rights.job, self.rights.pool
        return max(later.quotas.accounts[job.queue, pool].available, later.shares.own_available(job.tenant, pool))

    def _fits(self) -> Taken | None:
        """Seats once everything that drains is back: enough quota, enough devices, close enough together, and nobody
        delayed who was promised a start."""
        if self._missing() > 0:
            return None
        coming_N = self.ground.free + self.ground.draining + self.freed
        if self.promises:
            job, pool = self.rights.job, self.rights.pool
            allowed = allowance(self.promises, self.board, job, pool, self.end_s, self.freed_by())
            if min(allowed.devices, allowed.quota) < self.rights.need:
                return None
            coming_N = coming_N if allowed.limit is None else np.minimum(coming_N, allowed.limit)
        return seat(self.board, self.rights.job, self.ground, coming_N, self.size)

    @property
    def end_s(self) -> float:
        """When the job would be done."""
        snapshot = self.board.snapshot
        return expected_end_s(self.rights.job, self.size, snapshot.now_s, snapshot.rules.unknown_run_s)

    def freed_by(self) -> list[Freed]:
        """What victims give up in this pool, and when they would have given it up by themselves."""
        snapshot, found = self.board.snapshot, []
        for demand in self.demands:
            job = demand.victim.job
            workers = workers_before(demand.victim)
            end_s = expected_end_s(job, workers, snapshot.now_s, snapshot.rules.unknown_run_s)
            found += [Freed(end_s, job.queue, seats) for pool, seats in demand.seats if pool == self.rights.pool]
        return found


def _surplus(victim: Sitting, pool: str, missing: int, most: int) -> Taken:
    """Devices a victim gives back by running at a smaller useful size: as few as `missing` needs, `most` at most.

    Where the devices are enough and only the places are not, it goes down one size. Its last seats go, so that the
    others keep their neighbours.
    """
    per_worker, held = victim.job.devices_per_worker, victim.devices
    smaller = [held - size * per_worker for size in victim.job.sizes if size * per_worker < held]
    possible = [devices for devices in smaller if devices <= most]
    if not possible:
        return ()
    enough = [devices for devices in possible if devices >= missing]
    give, seats = min(enough, default=max(possible)), []
    for at, devices in sorted(victim.seats[pool].items(), reverse=True):
        part = min(give, devices)
        if part:
            seats.append((at, part))
            give -= part
    return tuple(sorted(seats))
