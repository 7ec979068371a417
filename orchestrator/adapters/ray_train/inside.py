"""A way into a run for people: where its ranks stand, and commands beside them. Any thread of the run's process.

It finds the nodes' agents by name, as supervisors do, so that nothing here waits for the driver's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from orchestrator.adapters.ray_train.commands import Heard
from orchestrator.adapters.ray_train.driver_ports import StackFolder
from orchestrator.adapters.ray_train.events import StacksTaken
from orchestrator.adapters.ray_train.names import NAMESPACE, agent_name
from orchestrator.adapters.ray_train.protocol import AttemptPlan, StacksOf
from orchestrator.adapters.ray_train.stack_files import as_text
from orchestrator.adapters.ray_train.stacks import STACKS_S
from orchestrator.adapters.ray_train.terminal import Size, Terminal
from orchestrator.spec.errors import ExitCode, UserError

T = TypeVar("T")
ANSWER_S = 20.0
"""An agent that says nothing for so long is taken for gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """A rank of the running group, and its node."""

    rank: int
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """Where ranks stood: as text, and as the event that names the file it was kept in; `silent` nodes said nothing."""

    text: str
    taken: StacksTaken | None
    silent: tuple[str, ...]


class RemoteCommand:
    """A command beside a rank. Methods raise UserError: conflict when its node's agent is gone."""

    def __init__(self, agent: Any, name: str, seat: Seated) -> None:
        self._agent, self._name, self.seat = agent, name, seat

    def hear(self, taken: int, wait_s: float) -> Heard:
        """See `commands.Command.hear`."""
        heard: Heard = _answer(self._agent.hear.remote(self._name, taken, wait_s), self.seat.node_id)
        return heard

    def tell(self, data: bytes, *, end: bool, size: Size | None = None) -> bool:
        """See `commands.Command.tell`."""
        return bool(_answer(self._agent.tell.remote(self._name, data, end, size), self.seat.node_id))

    def let_go(self) -> None:
        """End it if it runs; nobody waits for that."""
        self._agent.let_go.remote(self._name)


class Inside:
    """One session of a run. `running` tells the group that runs and the last step it has finished."""

    def __init__(
        self,
        session: str,
        running: Callable[[], tuple[AttemptPlan, int] | None],
        folder: StackFolder,
        *,
        find_agent: Callable[[str, str], Any] | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._running = running
        self._folder = folder
        self._find_agent = find_agent or _agent
        self._now_s = now_s

    def stacks(self, rank: int | None) -> Dump:
        """Where the ranks stand; of one, or of all. Raises: UserError (conflict, unknown)."""
        plan, step = self._group()
        nodes = set(plan.nodes) if rank is None else {_node_of(plan, rank)}
        calls = {node: self._find_agent(self._session, node).stacks.remote(rank) for node in sorted(nodes)}
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=STACKS_S + 5.0)
        found, silent = [], []
        for node, call in calls.items():
            try:
                stacks = _answer(call, node, within_s=0.0)
            except UserError:
                if rank is not None:
                    raise
                silent.append(node)
            else:
                found.append(StacksOf(attempt=plan.attempt, worker=-1, node_id=node, stacks=stacks))
        taken = self._folder.keep(plan.attempt, step, found, self._now_s(), "somebody asked")
        return Dump(text=as_text(found, step), taken=taken, silent=tuple(silent))

    def begin(
        self, command: Sequence[str], *, rank: int | None, node: str | None, terminal: Terminal | None = None
    ) -> RemoteCommand:
        """Start a command beside a rank, or beside the first one of a node (a prefix of its id will do).

        Raises: UserError: nothing runs (conflict), there is no such rank or node (unknown).
        """
        plan, _ = self._group()
        seat = seat_of(plan, rank, node)
        agent = self._find_agent(self._session, seat.node_id)
        name = _answer(agent.begin.remote(seat.rank, tuple(command), terminal), seat.node_id)
        return RemoteCommand(agent, name, seat)

    def _group(self) -> tuple[AttemptPlan, int]:
        found = self._running()
        if found is None:
            problem = "the job has no workers at this moment: it starts, changes its size, or waits for devices"
            raise UserError(problem, code=ExitCode.CONFLICT, next_step="Try again once it runs")
        return found


def seat_of(plan: AttemptPlan, rank: int | None, node: str | None) -> Seated:
    """The rank that is meant: of that number, the first one of a node, else rank 0. Pure. Raises: UserError."""
    if node is not None:
        found = sorted({one for one in plan.nodes if one.startswith(node)})
        if len(found) != 1:
            problem = f"{'no' if not found else len(found)} nodes of the job have an id that begins with {node!r}"
            known = ", ".join(sorted({one[:12] for one in plan.nodes})[:20])
            raise UserError(problem, code=ExitCode.UNKNOWN, next_step=f"Its nodes: {known}")
        here = [one for worker, at in enumerate(plan.nodes) if at == found[0] for one in plan.ranks_of(worker)]
        if rank is not None and rank not in here:
            problem = f"rank {rank} is not on node {found[0][:12]}"
            raise UserError(problem, code=ExitCode.UNKNOWN, next_step=f"Its ranks: {', '.join(map(str, here))}")
        return Seated(rank=here[0] if rank is None else rank, node_id=found[0])
    rank = rank or 0
    return Seated(rank=rank, node_id=_node_of(plan, rank))


def _node_of(plan: AttemptPlan, rank: int) -> str:
    if not 0 <= rank < plan.world_size:
        problem = f"there is no rank {rank}; the job runs on ranks 0 to {plan.world_size - 1}"
        raise UserError(problem, code=ExitCode.UNKNOWN)
    return plan.nodes[rank // plan.ranks_per_worker]


def _agent(session: str, node: str) -> Any:
    try:
        return ray.get_actor(agent_name(session, node), namespace=NAMESPACE)
    except ValueError:
        raise _gone(node) from None


def _answer(call: Any, node: str, *, within_s: float = ANSWER_S) -> Any:
    try:
        return ray.get(call, timeout=within_s)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, UserError) else error from None
    except ray.exceptions.RayError:
        raise _gone(node) from None


def _gone(node: str) -> UserError:
    problem = f"node {node[:12]} does not answer: it is gone, or the job has just left it"
    return UserError(problem, code=ExitCode.CONFLICT, next_step="Try again once the job runs")
