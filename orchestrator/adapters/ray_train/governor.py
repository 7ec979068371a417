"""Turns what the cluster and the lease say into the resize policy's conditions, and its decision into nodes.

The decision itself is `orchestrator.policy.resize`; here is only what it must be told: how many workers are usable
(alive, not draining, not held by others, our own included, with a warm agent), which of ours must go and when, and what
a stall costs by measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from orchestrator.adapters.ray_train.capacity import NodeView, room
from orchestrator.adapters.ray_train.events import Cause, Noticed
from orchestrator.adapters.ray_train.lease import Lease
from orchestrator.adapters.ray_train.protocol import Announced, AttemptPlan
from orchestrator.adapters.ray_train.sizes import Size, size_on
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.resize import (
    Conditions,
    Hold,
    Outlook,
    Resize,
    ResizeReason,
    ResizeRules,
    ResizeState,
    RunPlan,
    Suspend,
    choose_world_size,
)

# A node that refused workers for which its numbers said there was room is not offered again for so long.
REFUSAL_S = 30.0
# Leased seats are free as soon as who held them before has gone, and Ray's view has followed. What is not there after
# so long is not waited for: the run goes on with what there is.
SEATS_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The job's own limits: ranks, what each needs, how a step is cut."""

    min_workers: int
    max_workers: int
    per_rank: Mapping[str, float]
    ranks_per_worker: int
    batch: BatchPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How restless the run may be. `stay_s`: how long offered capacity is expected to last while nobody forecasts it;
    `stall_s` and `stop_s`: assumed until the run has measured its own; `warm_s`: how long the workers of a larger group
    may take to come up, while the present group trains on."""

    rules: ResizeRules
    stay_s: float
    stall_s: float
    stop_s: float
    warm_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the run knows of itself: seconds of training left at its present size, and its measured stalls and stops;
    `slow_stop_s`: the stop that 95 of 100 are not above."""

    remaining_s: float | None = None
    stall_s: float | None = None
    stop_s: float | None = None
    slow_stop_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What should become of the running group: another size, or none at all (`size` None: below the minimum)."""

    cause: Cause
    size: Size | None
    detail: str


class Governor:
    """One run's. Reads the cluster at every call; the caller sets the pace."""

    def __init__(
        self,
        bounds: Bounds,
        habits: Habits,
        read_lease: Callable[[], Lease],
        read_nodes: Callable[[], tuple[NodeView, ...]],
    ) -> None:
        self._bounds = bounds
        self._habits = habits
        self._read_lease = read_lease
        self._read_nodes = read_nodes
        self._state = ResizeState()
        self._lease = Lease()
        self._lease_since_s = float("-inf")
        self._refused_until_s: dict[str, float] = {}
        self._noticed: set[str] = set()
        self._announced: dict[str, Announced] = {}
        self._nodes: tuple[NodeView, ...] = ()

    def look(self) -> frozenset[str]:
        """Read the cluster; the nodes that are alive. Decisions below are about what was seen last."""
        self._nodes = tuple(self._with_announcement(node) for node in self._read_nodes())
        return frozenset(node.node_id for node in self._nodes)

    def staying(self) -> frozenset[str]:
        """Nodes that are alive and not draining."""
        return frozenset(node.node_id for node in self._nodes if node.drain_deadline_s is None)

    def hosts(self) -> frozenset[str]:
        """Nodes that could hold a worker of this job if nobody else held anything there."""
        empty = tuple(replace(node, free=node.total, drain_deadline_s=None) for node in self._nodes)
        return frozenset(room(empty, self._bounds.per_rank, {}, self._bounds.ranks_per_worker))

    def announced(self, announced: Announced) -> None:
        """A node's own agent has heard that it goes; Ray may not know it yet, or may have refused to."""
        known = self._announced.get(announced.node_id)
        if known is None or _end_s(announced) < _end_s(known):
            self._announced[announced.node_id] = announced

    def _with_announcement(self, node: NodeView) -> NodeView:
        announced = self._announced.get(node.node_id)
        if announced is None:
            return node
        deadlines = [deadline for deadline in (node.drain_deadline_s, announced.ends_at_s) if deadline]
        return replace(node, drain_deadline_s=min(deadlines, default=0.0))

    def notices(self, nodes: Collection[str], now_s: float) -> list[Noticed]:
        """Departures of these nodes that were not announced before."""
        fresh = [
            node
            for node in self._nodes
            if node.drain_deadline_s is not None and node.node_id in nodes and node.node_id not in self._noticed
        ]
        self._noticed.update(node.node_id for node in fresh)
        return [
            Noticed(
                at_s=now_s,
                node_id=node.node_id,
                deadline_s=_left_s(node.drain_deadline_s, now_s),
                detail=self._announced[node.node_id].detail if node.node_id in self._announced else "",
            )
            for node in fresh
        ]

    def refused(self, nodes: Collection[str], now_s: float) -> None:
        """These nodes had no room after all: somebody else was quicker."""
        self._refused_until_s.update(dict.fromkeys(nodes, now_s + REFUSAL_S))

    def start_size(self, held: Mapping[str, int], ready: Collection[str], now_s: float) -> Size | str:
        """The size to start at, or the sentence that says why the run has to wait."""
        fits = self._fits(held, ready, now_s)
        usable = sum(fits.values())
        leased = self._leased_workers()
        if usable < leased and now_s < self._lease_since_s + SEATS_S:
            return f"there is room for {usable} of the {leased} workers that are leased"
        decision = self._choose(Conditions(
            running_workers=0, usable_workers=usable, outlook=self._outlook(usable, None), broken=True,
            stall_s=self._habits.stall_s, stop_s=self._habits.stop_s,
        ), now_s)  # fmt: skip
        if isinstance(decision, Resize):
            return self._place(fits, held, decision.workers)
        return f"there is room for {usable} workers; {self._bounds.min_workers} are needed"

    def change(
        self, plan: AttemptPlan, held: Mapping[str, int], ready: Collection[str], progress: Progress, now_s: float
    ) -> Change | None:
        """What should become of the running group; None: go on. A group with a dead node is the failure path's."""
        ours = set(plan.nodes)
        if not ours <= {node.node_id for node in self._nodes}:
            return None
        fits = self._fits(held, {*ready, *ours}, now_s)
        usable = min(sum(fits.values()), self._bounds.max_workers)
        if plan.world_size <= usable < self._leased_workers() and now_s < self._lease_since_s + SEATS_S:
            return None  # the seats that are missing were given back a moment ago: one resize, not two
        decision = self._choose(Conditions(
            running_workers=plan.world_size,
            usable_workers=usable,
            outlook=self._outlook(usable, progress.remaining_s),
            stall_s=progress.stall_s or self._habits.stall_s,
            stop_s=progress.stop_s or self._habits.stop_s,
            departure_s=self._departure_s(ours, now_s),
        ), now_s)  # fmt: skip
        match decision:
            case Resize():
                cause = _cause(decision, plan.world_size, is_leaving=self._lease.seats is None or self._leaves(ours))
                return Change(cause=cause, size=self._place(fits, held, decision.workers), detail=decision.detail)
            case Suspend():
                return Change(cause=Cause.NOTICE, size=None, detail=decision.detail)
            case Hold():
                return self._move(plan, fits, held, usable)

    def overdue(self, plan: AttemptPlan, now_s: float) -> bool:
        """Whether the group still sits on seats that it had to give back by now."""
        self._read(now_s)
        due_s = self._lease.others_end_s
        return due_s is not None and now_s > due_s and not self._sits(plan)

    def _sits(self, plan: AttemptPlan) -> bool:
        seats, per_worker = self._lease.seats or {}, self._bounds.ranks_per_worker
        return all(plan.nodes.count(node) * per_worker <= seats.get(node, 0) for node in set(plan.nodes))

    def _leased_workers(self) -> int:
        return 0 if self._lease.seats is None else min(sum(self._lease.seats.values()), self._bounds.max_workers)

    def _leaves(self, ours: Collection[str]) -> bool:
        return not set(ours) <= self.staying()

    def _move(self, plan: AttemptPlan, fits: Mapping[str, int], held: Mapping[str, int], usable: int) -> Change | None:
        """To other seats at the same size, where the lease names others than the group sits on."""
        if self._lease.seats is None or usable < plan.world_size or self._sits(plan):
            return None
        size = self._place(fits, held, plan.world_size)
        return Change(cause=Cause.SHRINK, size=size, detail="moves to the seats of its lease")

    def _read(self, now_s: float) -> None:
        lease = self._read_lease()
        if lease != self._lease:
            self._lease, self._lease_since_s = lease, now_s

    def _choose(self, conditions: Conditions, now_s: float) -> Resize | Suspend | Hold:
        bounds = self._bounds
        plan = RunPlan(
            batch=bounds.batch,
            min_workers=bounds.min_workers,
            max_workers=bounds.max_workers,
            rules=self._habits.rules,
            pinned_workers=self._lease.workers,
        )
        decision, self._state = choose_world_size(plan, conditions, self._state, now_s=now_s)
        return decision

    def _fits(self, held: Mapping[str, int], ready: Collection[str], now_s: float) -> dict[str, int]:
        self._read(now_s)
        per_worker = self._bounds.ranks_per_worker
        own = {node: workers * per_worker for node, workers in held.items()}
        fits = room(self._nodes, self._bounds.per_rank, own, per_worker)
        for node, until_s in self._refused_until_s.items():
            if now_s < until_s and node in fits:
                fits[node] = min(fits[node], own.get(node, 0))
        seats = self._lease.seats
        if seats is not None:
            fits = {node: min(ranks, seats.get(node, 0) // per_worker * per_worker) for node, ranks in fits.items()}
        return {node: ranks for node, ranks in fits.items() if node in ready and ranks}

    def _outlook(self, usable: int, remaining_s: float | None) -> tuple[Outlook, ...]:
        stay_s = self._habits.stay_s if remaining_s is None else min(self._habits.stay_s, remaining_s)
        return (Outlook(workers=usable, expected_s=stay_s),)

    def _departure_s(self, ours: Collection[str], now_s: float) -> float | None:
        deadlines = [n.drain_deadline_s for n in self._nodes if n.node_id in ours and n.drain_deadline_s is not None]
        # A drain without a deadline is one that nobody hurries.
        return min((deadline or now_s + self._habits.stay_s for deadline in deadlines), default=None)

    def _place(self, fits: Mapping[str, int], held: Mapping[str, int], workers: int) -> Size:
        places = {node.node_id: node.place for node in self._nodes}
        return size_on(fits, held, workers, self._bounds.ranks_per_worker, places)


def _cause(decision: Resize, running: int, *, is_leaving: bool) -> Cause:
    if decision.reason is ResizeReason.WORKERS_LEAVE and is_leaving:
        return Cause.NOTICE
    return Cause.GROW if decision.workers > running else Cause.SHRINK


def _end_s(announced: Announced) -> float:
    return float("inf") if announced.ends_at_s is None else announced.ends_at_s


def _left_s(deadline_s: float | None, now_s: float) -> float | None:
    return max(0.0, deadline_s - now_s) if deadline_s else None
