"""What the driver acts on, as small protocols, so that its decisions are tested with a world made by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from jobs.train.config import RankJob, RestoreFrom
from orchestrator.adapters.ray_train.events import Cause, Event, Noticed, StacksTaken
from orchestrator.adapters.ray_train.governor import Change, Progress
from orchestrator.adapters.ray_train.protocol import Announced, AttemptPlan, Order, RunOver, StacksOf
from orchestrator.adapters.ray_train.retries import RetryBudget
from orchestrator.adapters.ray_train.sizes import Size


class Hub(Protocol):
    """The way to controller and workers: fire and forget."""

    def offer(self, offer: AttemptPlan | RunOver) -> None: ...

    def order(self, order: Order) -> None: ...


class Sizing(Protocol):
    """Decides sizes; see `governor.Governor`."""

    def look(self) -> frozenset[str]: ...

    def staying(self) -> frozenset[str]: ...

    def hosts(self) -> frozenset[str]: ...

    def announced(self, announced: Announced) -> None: ...

    def notices(self, nodes: Collection[str], now_s: float) -> list[Noticed]: ...

    def refused(self, nodes: Collection[str], now_s: float) -> None: ...

    def start_size(self, held: Mapping[str, int], ready: Collection[str], now_s: float) -> Size | str: ...

    def change(
        self, plan: AttemptPlan, held: Mapping[str, int], ready: Collection[str], progress: Progress, now_s: float
    ) -> Change | None: ...

    def overdue(self, plan: AttemptPlan, now_s: float) -> bool: ...


class Agents(Protocol):
    """The nodes' agents; see `fleet.Fleet`."""

    trouble: str

    def keep_up(self, alive: Collection[str], wanted: Collection[str], hosts: Collection[str]) -> None: ...

    def unreachable(self, nodes: Collection[str]) -> frozenset[str]: ...

    def ready(self) -> frozenset[str]: ...

    def is_warming(self) -> bool: ...

    def drained(self, nodes: Collection[str]) -> None: ...


class State(Protocol):
    """The run's saved state; see `run_state.RunState`."""

    def restore_point(self) -> RestoreFrom | None: ...

    def begin(self, attempt: int, world_size: int, leaving: Collection[str], members: Collection[str]) -> None: ...

    def tell(self, leaving: Collection[str]) -> None: ...

    def secure(self, step: int, give_up: Callable[[], bool]) -> bool: ...

    def committed(self, at_s: float) -> Iterator[Event]: ...

    def news(self, step: int, at_s: float) -> Iterator[Event]: ...


class Warming(Protocol):
    """Starts workers for a larger group while the present one trains; see `session.py`."""

    def begin(self, nodes: tuple[str, ...], ranks_per_worker: int) -> None: ...

    def outcome(self) -> bool | None:
        """Whether they came up; None while that is open."""
        ...


class StackFolder(Protocol):
    """Keeps where ranks stood; see `stack_files.StackFiles`."""

    def keep(
        self, attempt: int, step: int, stacks: Sequence[StacksOf], at_s: float, why: str
    ) -> StacksTaken | None: ...


class NoStackFolder:
    """Nothing is kept."""

    def keep(self, attempt: int, step: int, stacks: Sequence[StacksOf], at_s: float, why: str) -> StacksTaken | None:
        """Nothing to tell."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """What does not change in a run's session. `job` is the template of every attempt."""

    job: RankJob
    ranks_per_worker: int
    first_attempt: int
    first_cause: Cause
    budget: RetryBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything the driver acts on."""

    hub: Hub
    sizing: Sizing
    agents: Agents
    state: State
    warming: Warming
    stacks: StackFolder = field(default_factory=NoStackFolder)
