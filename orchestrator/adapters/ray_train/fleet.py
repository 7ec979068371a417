"""The agents of a run's session: one on every node, started before it is needed, forgotten when the node is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
import structlog

from jobs.train.keeper.judge import Choice, Source, choose_source
from jobs.train.keeper.keeper import RunStatus
from jobs.train.keeper.topology import choose_mirrors
from jobs.train.keeper.values import AttemptPlan as KeeperPlan
from jobs.train.keeper.values import Inventory
from jobs.train.state.errors import StorageError
from orchestrator.adapters.ray_train.keeper_host import KeeperFacts
from orchestrator.adapters.ray_train.liveness import is_gone, raylet_addresses
from orchestrator.adapters.ray_train.node_agent import AgentConfig, AgentFacts, start_agent

log = structlog.get_logger(__name__)

# Agents answer in milliseconds; a node that is dying does not, and must not hold up the others' restart.
ANSWER_S = 3.0
# Between two looks whether a node that does not answer is gone.
LOOK_S = 0.1
# A node that the run has left may be gone at any moment: its answer is taken if it comes at once.
LEFT_S = 0.2
CLOSE_S = 10.0
# A node whose agent failed (a stem that cannot warm up, say) is left alone for this long.
BLAME_S = 60.0


class Fleet:
    """Starts agents, knows which are warm, and speaks to their keepers. Used from the driver's thread only."""

    def __init__(self, config: AgentConfig, *, run: str, mirrors: int) -> None:
        self._config = config
        self._run = run
        self._mirrors = mirrors
        self._agents: dict[str, Any] = {}
        self._warming: dict[Any, str] = {}
        self._facts: dict[str, AgentFacts] = {}
        self._blamed_until_s: dict[str, float] = {}
        self._drained: set[str] = set()
        self._told: list[Any] = []
        self._tellings = 0
        self._lead = ""
        self.trouble = ""

    def keep_up(self, alive: Collection[str], wanted: Collection[str], hosts: Collection[str]) -> None:
        """Start agents on wanted nodes, take note of those that are warm, forget nodes that are gone. Never blocks.

        Only `hosts` can hold ranks and warm a fork server; other nodes hold copies of snapshots, no more.
        """
        for node in set(self._agents) - set(alive):
            self._forget(node)
        now_s = time.monotonic()
        for node in sorted(set(wanted) - set(self._agents)):
            is_host = node in hosts
            if self._blamed_until_s.get(node, 0.0) <= now_s and (is_host or self._config.keep):
                agent = start_agent(replace(self._config, fork=self._config.fork and is_host), node)
                self._agents[node] = agent
                self._warming[agent.facts.remote()] = node
        self._hear_refusals()
        if self._warming:
            done, _ = ray.wait(list(self._warming), num_returns=len(self._warming), timeout=0)
            for ref in done:
                self._take_facts(ref)

    def _take_facts(self, ref: Any) -> None:
        node = self._warming.pop(ref)
        try:
            self._facts[node] = ray.get(ref)
        except ray.exceptions.RayError as error:
            self.trouble = f"node {node[:12]}: {_root_message(error)}"
            log.warning("a node's agent did not start", node=node, error=self.trouble)
            self._blamed_until_s[node] = time.monotonic() + BLAME_S
            self._forget(node)

    def unreachable(self, nodes: Collection[str]) -> frozenset[str]:
        """Those of `nodes` whose agent does not answer: dead, whatever the cluster still thinks. Blocks a moment."""
        calls = {self._agents[node].ping.remote(): node for node in nodes if node in self._agents}
        if not calls:
            return frozenset(nodes) - set(self._agents)
        addresses = raylet_addresses()
        silent, dead, deadline_s = list(calls), set(), time.monotonic() + ANSWER_S
        while silent and time.monotonic() < deadline_s:
            done, silent = ray.wait(silent, num_returns=len(silent), timeout=LOOK_S)
            dead |= {calls[ref] for ref in done if not _answers(ref)}
            gone = [ref for ref in silent if is_gone(calls[ref], addresses)]
            dead |= {calls[ref] for ref in gone}
            silent = [ref for ref in silent if ref not in gone]
        dead |= {calls[ref] for ref in silent}
        for node in dead:
            self._blamed_until_s[node] = time.monotonic() + BLAME_S
            self._forget(node)
        return frozenset(dead) | (frozenset(nodes) - set(self._agents))

    def _forget(self, node: str) -> None:
        self._facts.pop(node, None)
        agent = self._agents.pop(node, None)
        self._warming = {ref: name for ref, name in self._warming.items() if name != node}
        if agent is not None:
            _kill(agent)

    def ready(self) -> frozenset[str]:
        """Nodes on which ranks can start at once."""
        return frozenset(self._facts)

    def is_warming(self) -> bool:
        """Whether some agent is still starting."""
        return bool(self._warming)

    def drained(self, nodes: Collection[str]) -> None:
        """Tell the agents of these nodes, each once, that the run has left them. Nobody waits for it."""
        for node in set(nodes) - self._drained:
            if node in self._facts:
                self._drained.add(node)
                self._agents[node].drained.remote()

    def keepers(self) -> dict[str, KeeperFacts]:
        """The keepers by node."""
        return {node: facts.keeper for node, facts in self._facts.items() if facts.keeper}

    def marker_trouble(self, storage_url: str, marker: str) -> StorageError | None:
        """Whether some node sees other storage than this one, where `marker` has been placed. Blocks a moment."""
        calls = [self._call(node, "marker_trouble", storage_url, marker) for node in self._addresses()]
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=ANSWER_S) if calls else ([], [])
        for ref in done:
            with contextlib.suppress(ray.exceptions.RayActorError):
                trouble: StorageError | None = ray.get(ref)
                if trouble is not None:
                    return trouble
        return None

    def newest(self, storage_step: int | None) -> Choice | None:
        """The newest whole state that keepers or storage have; None without keepers.

        All keepers are asked side by side: one that hangs costs its own answer and no other's.
        """
        calls = {node: self._call(node, "inventory", self._run) for node in self._addresses()}
        found = list(self._inventories(calls))
        return choose_source(self._run, found, storage_step) if found else None

    def _inventories(self, calls: Mapping[str, Any]) -> Iterator[Inventory]:
        staying = [ref for node, ref in calls.items() if node not in self._drained]
        left = [ref for node, ref in calls.items() if node in self._drained]
        for refs, patience_s in ((staying, ANSWER_S), (left, LEFT_S)):
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=patience_s) if refs else ([], [])
            for ref in done:
                with contextlib.suppress(ray.exceptions.RayError):
                    yield ray.get(ref)

    def begin_attempt(
        self,
        attempt: int,
        world_size: int,
        *,
        members: Collection[str] = (),
        leaving: Iterable[str] = (),
        choice: Choice | None,
        storage_url: str,
        checkpoint_every_s: float,
        first_checkpoint_in_s: float,
        committed_step: int | None,
        keep_checkpoints: int,
        domains: Mapping[str, str],
    ) -> None:
        """Tell every keeper what begins. Blocks until those of `members`, whose ranks are about to speak to them, have
        heard it; one that does not answer is left out."""
        addresses = self._addresses()
        if not addresses:
            return
        gone = set(leaving) & set(addresses)
        staying = sorted(set(addresses) - gone) or sorted(addresses)
        self._lead = self._lead if self._lead in staying else staying[0]
        kept = () if choice is None or choice.source is not Source.KEEPERS else (choice.key, *choice.older)
        plan = KeeperPlan(
            run=self._run,
            attempt=attempt,
            world_size=world_size,
            nodes=tuple(sorted(addresses)),
            lead=self._lead,
            mirrors=_mirrors(staying, gone, domains, self._mirrors),
            leaving=tuple(sorted(gone)),
            kept=tuple(key for key in kept if key is not None),
            storage_url=storage_url,
            checkpoint_every_s=checkpoint_every_s,
            first_checkpoint_in_s=first_checkpoint_in_s,
            committed_step=-1 if committed_step is None else committed_step,
            keep_checkpoints=keep_checkpoints,
        )
        self._tellings += 1
        calls = {node: self._call(node, "begin_attempt", plan, addresses, self._tellings) for node in plan.nodes}
        self._told += calls.values()
        awaited = [ref for node, ref in calls.items() if node in members]
        if awaited:
            ray.wait(awaited, num_returns=len(awaited), timeout=ANSWER_S)
        self._hear_refusals()

    def _hear_refusals(self) -> None:
        """Raises: what a keeper found wrong with what it was told; those that are gone say nothing. Never blocks."""
        done, self._told = ray.wait(self._told, num_returns=len(self._told), timeout=0) if self._told else ([], [])
        for ref in done:
            with contextlib.suppress(ray.exceptions.RayActorError):
                ray.get(ref)

    def note_step(self, step: int) -> None:
        """Tell the keepers how far training is; nobody waits for it."""
        for node in self._addresses():
            self._call(node, "note_step", self._run, step)

    def ask_status(self) -> Any:
        """A reference to the lead keeper's `RunStatus`, None without keepers."""
        return self._call(self._lead, "status", self._run) if self._lead in self._agents else None

    def flush(self, step: int, timeout_s: float) -> Any:
        """A reference to whether the newest complete snapshot, of `step` or later, came to storage; None without
        keepers."""
        return self._call(self._lead, "flush", self._run, step, timeout_s) if self._lead in self._agents else None

    def close(self) -> None:
        """End all agents and what they started."""
        closing = [agent.close.remote() for agent in self._agents.values()]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for node in list(self._agents):
            self._forget(node)

    def _addresses(self) -> dict[str, str]:
        return {node: keeper.address for node, keeper in self.keepers().items()}

    def _call(self, node: str, method: str, *args: Any) -> Any:
        return self._agents[node].keeper_call.remote(method, *args)


def _mirrors(
    staying: list[str], leaving: set[str], domains: Mapping[str, str], count: int
) -> dict[str, tuple[str, ...]]:
    """Who mirrors to whom: nodes that stay among themselves, leaving ones to those that stay."""
    peers = dict(choose_mirrors(staying, domains, count).peers)
    for at, node in enumerate(sorted(leaving)):
        if node not in peers:
            around = [staying[(at + n) % len(staying)] for n in range(len(staying))]
            near = domains.get(node, "")
            around.sort(key=lambda peer: bool(near) and domains.get(peer, "") == near)  # stable: other places first
            peers[node] = tuple(around[:count])
    return peers


def _root_message(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    lines = str(cause or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _answers(ref: Any) -> bool:
    try:
        ray.get(ref)
    except ray.exceptions.RayError:
        return False
    return True


def _kill(actor: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)


__all__ = ["Fleet", "RunStatus"]
