"""Who may be asked for devices, in the order in which they are asked: indexed once, because every head asks.

Order: least lost work, then newest checkpoint, then lowest priority, then id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.values import Job

Ranked = tuple[int, Sitting]


@dataclass(slots=True)
class Victims:
    """Running jobs by pool and queue, each with its rank. Those still in their minimum run time are apart."""

    board: Board
    _everybody: dict[str, list[Ranked]] = field(default_factory=dict)
    _by_queue: dict[tuple[str, str], list[Ranked]] = field(default_factory=dict)
    _cohorts: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        trains = (one for one in self.board.sittings.values() if not one.job.serves)
        for rank, sitting in enumerate(sorted(trains, key=cost)):
            disturbable = not _undisturbed(self.board, sitting)
            for pool in sitting.seats:
                self._everybody.setdefault(pool, []).append((rank, sitting))
                if disturbable:
                    self._by_queue.setdefault((pool, sitting.job.queue), []).append((rank, sitting))
        for queue in self.board.queues.values():
            if queue.cohort is not None:
                self._cohorts.setdefault(queue.cohort, []).append(queue.name)

    def of(self, job: Job, pool: str, *, recalls: bool, reclaims: bool) -> list[Sitting]:
        """Everybody whom any right of a job could concern, in order: all in the pool for a recall, borrowing queues of
        its cohort for a reclaim, and always its own queue."""
        if recalls:
            return _live(self._everybody.get(pool, ()), pool)
        names = [job.queue, *(self._borrowers(job.queue, pool) if reclaims else ())]
        found = [one for name in names for one in self._by_queue.get((pool, name), ())]
        return _live(sorted(found, key=lambda one: one[0]) if len(names) > 1 else found, pool)

    def _borrowers(self, queue: str, pool: str) -> list[str]:
        cohort, accounts = self.board.queues[queue].cohort, self.board.later.quotas.accounts
        members = self._cohorts.get(cohort, []) if cohort is not None else []
        return [
            name for name in members if name != queue and (name, pool) in accounts and accounts[name, pool].borrowed
        ]


def cost(sitting: Sitting) -> tuple[float, float, int, str]:
    """What stopping a job loses, for ordering."""
    running = sitting.running
    return running.lost_work_s, running.checkpoint_age_s, running.job.priority, running.job.id


def _undisturbed(board: Board, sitting: Sitting) -> bool:
    queue = board.queues.get(sitting.running.job.queue)
    return queue is not None and board.snapshot.now_s < sitting.running.started_s + queue.min_run_s


def _live(ranked: Iterable[Ranked], pool: str) -> list[Sitting]:
    return [one for _, one in ranked if not one.changed and one.seats.get(pool)]
