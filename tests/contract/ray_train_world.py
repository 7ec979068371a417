"""A driver of Ray Train runs with everything around it by hand: cluster, agents, state, clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.train.config import RestoreFrom
from jobs.train.messages import Phase, Snapshot, Step, encode
from orchestrator.adapters.ray_train.driver import Driver
from orchestrator.adapters.ray_train.driver_ports import DriverConfig, NoStackFolder, Surroundings
from orchestrator.adapters.ray_train.events import (
    Cause,
    Event,
    Noticed,
)
from orchestrator.adapters.ray_train.governor import Change
from orchestrator.adapters.ray_train.protocol import (
    Announced,
    AttemptPlan,
    GroupIdle,
    GroupPlaced,
    GroupStarting,
    Held,
    Joined,
    Leaving,
    Left,
    Said,
)
from orchestrator.adapters.ray_train.retries import (
    RetryBudget,
)
from orchestrator.adapters.ray_train.sizes import Size
from tests.contract.ray_train_fakes import JOB, FakeHub


@dataclass
class World:
    """A driver and everything around it: cluster, agents, saved state, workers being warmed."""

    hub: FakeHub = field(default_factory=FakeHub)
    events: list[Event] = field(default_factory=list)
    size: Size | str = field(default_factory=lambda: Size(world_size=2, nodes=("n", "n")))
    restore: RestoreFrom | None = None
    stop: int = 0
    now_s: float = 100.0
    failures: int = 3
    alive: frozenset[str] = frozenset({"n"})
    draining: frozenset[str] = frozenset()
    trouble: str = ""
    warming_up: bool = False
    wanted_change: Change | None = None
    warmed: bool | None = None
    late: bool = False
    secured: list[int] = field(default_factory=list)
    told: list[frozenset[str]] = field(default_factory=list)
    begun: list[tuple[str, ...]] = field(default_factory=list)
    left: list[frozenset[str]] = field(default_factory=list)
    refusals: list[set[str]] = field(default_factory=list)
    sizing: Any = None
    stacks: Any = field(default_factory=NoStackFolder)
    warm_requests: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.driver = Driver(
            DriverConfig(
                job=JOB,
                ranks_per_worker=1,
                first_attempt=1,
                first_cause=Cause.START,
                budget=RetryBudget(failures=self.failures, preemptions=None),
            ),
            Surroundings(
                hub=self.hub, sizing=self.sizing or self, agents=self, state=self, warming=self, stacks=self.stacks
            ),
            emit=self.events.append,
            wants_stop=lambda: self.stop,
            now_s=lambda: self.now_s,
        )

    def look(self) -> frozenset[str]:
        return self.alive

    def staying(self) -> frozenset[str]:
        return self.alive - self.draining

    def notices(self, nodes: Collection[str], now_s: float) -> list[Noticed]:
        return [Noticed(at_s=now_s, node_id=node, deadline_s=30.0) for node in sorted(self.draining)]

    def refused(self, nodes: Collection[str], now_s: float) -> None:
        self.refusals.append(set(nodes))

    def start_size(self, held: Mapping[str, int], ready: Collection[str], now_s: float) -> Size | str:
        return self.size

    def change(self, plan: AttemptPlan, held: object, ready: object, progress: object, now_s: float) -> Change | None:
        return self.wanted_change

    def overdue(self, plan: AttemptPlan, now_s: float) -> bool:
        return self.late

    def hosts(self) -> frozenset[str]:
        return self.alive

    def keep_up(self, alive: Collection[str], wanted: Collection[str], hosts: Collection[str]) -> None:
        pass

    def unreachable(self, nodes: Collection[str]) -> frozenset[str]:
        return frozenset(nodes) - self.alive

    def ready(self) -> frozenset[str]:
        return self.alive

    def is_warming(self) -> bool:
        return self.warming_up

    def announced(self, announced: Announced) -> None:
        self.draining = self.draining | {announced.node_id}

    def drained(self, nodes: Collection[str]) -> None:
        self.left.append(frozenset(nodes))

    def restore_point(self) -> RestoreFrom | None:
        return self.restore

    def begin(
        self, attempt: int | tuple[str, ...], world_size: int, leaving: object = (), members: Collection[str] = ()
    ) -> None:
        if isinstance(attempt, tuple):
            self.warm_requests.append(attempt)
        else:
            self.begun.append(tuple(members))

    def tell(self, leaving: Collection[str]) -> None:
        self.told.append(frozenset(leaving))

    def secure(self, step: int, give_up: Callable[[], bool]) -> bool:
        self.secured.append(step)
        return True

    def committed(self, at_s: float) -> Iterator[Event]:
        return iter(())

    def news(self, step: int, at_s: float) -> Iterator[Event]:
        return iter(())

    def outcome(self) -> bool | None:
        return self.warmed

    def start(self, attempt: int = 1, *, steps: int = 1) -> None:
        """Bring attempt `attempt` up to its first steps."""
        self.driver.tick()
        plan = self.plan
        assert plan.attempt == attempt
        self.driver.read([GroupStarting(at_s=self.now_s, attempt=attempt)])
        self.driver.read([GroupPlaced(at_s=self.now_s + 1, attempt=attempt)])
        joined = [
            Joined(attempt=attempt, worker=w, node_id=f"n{w}", at_s=self.now_s + 2) for w in range(plan.num_workers)
        ]
        self.driver.read(joined)
        first = plan.job.start_step + 1
        self.driver.read([self.said(attempt, 0, step(number)) for number in range(first, first + steps)])

    @property
    def plan(self) -> AttemptPlan:
        last = self.hub.offers[-1]
        assert isinstance(last, AttemptPlan), last
        return last

    def said(self, attempt: int, rank: int, message: Step | Phase | Snapshot) -> Said:
        return Said(attempt=attempt, rank=rank, at_s=self.now_s + 3, line=encode(message))

    def leave(self, how: Leaving, attempt: int = 1, *, steps: int = 0, kind: str = "", workers: int = 2) -> None:
        self.driver.read(
            [
                Left(attempt=attempt, worker=w, node_id=f"n{w}", at_s=self.now_s + 4, how=how, step=steps, kind=kind)
                for w in range(workers)
            ]
        )

    def idle(self, **kwargs: object) -> None:
        self.driver.read([GroupIdle(at_s=self.now_s + 5, **kwargs)])  # type: ignore[arg-type]

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def step(number: int) -> Step:
    return Step(step=number, loss=1.0, lr=0.1, grad_norm=1.0, tokens=8, step_s=0.5, hash_hi=0, hash_lo=0, mfu=0.0)


def running_world(**kwargs: object) -> World:
    world = World(**kwargs)  # type: ignore[arg-type]
    world.idle()
    world.start()
    world.driver.read([Held(at_s=1.0, workers={"n": 2})])
    return world
