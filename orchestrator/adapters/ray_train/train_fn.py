"""What Ray Train runs in each worker: a supervisor around ranks that the node's agent starts. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train

from orchestrator.adapters.ray_train.exits import AttemptAborted, PlannedRestart, RankFailed
from orchestrator.adapters.ray_train.mail import Outbox, Sent
from orchestrator.adapters.ray_train.names import NAMESPACE, agent_name, hub_name
from orchestrator.adapters.ray_train.node_agent import AgentFacts
from orchestrator.adapters.ray_train.protocol import Abort, Item, Leaving, Left, Order, Place
from orchestrator.adapters.ray_train.stacks import RankProcess, RankStack, read_stacks
from orchestrator.adapters.ray_train.supervisor import Node, Supervisor

LONG_POLL_S = 20.0
# Where ranks stand is read before they are killed; a worker that has not left 3 s after its attempt was given up is
# replaced (`bench.LEAVE_S`), and what it read would be lost.
STACKS_BEFORE_END_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """The same for every worker of a run's session."""

    session: str
    log_dir: str
    cwd: str
    environment: dict[str, str]


def train(config: dict[str, Any]) -> dict[str, Any]:
    """Join the current attempt, supervise its ranks, leave.

    Returns: the step at which the job finished. Raises: PlannedRestart, RankFailed, AttemptAborted.
    """
    worker_config = WorkerConfig(**config)
    worker = ray.train.get_context().get_world_rank()
    node_id = ray.get_runtime_context().get_node_id()
    hub = ray.get_actor(hub_name(worker_config.session), namespace=NAMESPACE)
    agent = ray.get_actor(agent_name(worker_config.session, node_id), namespace=NAMESPACE)
    facts: AgentFacts = ray.get(agent.facts.remote())
    host = ray.util.get_node_ip_address()
    place: Place = ray.get(hub.join.remote(worker, node_id, host, free_port(host)))
    with HubLink(hub, place.plan.attempt) as link:
        left = Supervisor(place, worker, _node(worker_config, node_id, facts, agent), facts.starter(), link).run()
    ray.get(hub.leave.remote(left, link.sent))
    return _leave(left)


def _leave(left: Left) -> dict[str, Any]:
    match left.how:
        case Leaving.FINISHED:
            return {"step": left.step}
        case Leaving.STOPPED:
            raise PlannedRestart(left)
        case Leaving.FAILED:
            raise RankFailed(left)
        case Leaving.ABORTED:
            raise AttemptAborted(left)


def _node(config: WorkerConfig, node_id: str, facts: AgentFacts, agent: Any) -> Node:
    devices = [str(device) for device in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]

    def env_of(local_rank: int) -> dict[str, str]:
        # A rank sees one device of those that Ray gave this worker; ranks outnumbering devices share them in turn.
        device = {"CUDA_VISIBLE_DEVICES": devices[local_rank % len(devices)]} if devices else {}
        return {**config.environment, **facts.secrets, **device}

    return Node(
        node_id=node_id,
        keeper_socket=facts.keeper_socket,
        dataset_dir=facts.dataset_dir,
        cwd=config.cwd,
        log_dir=Path(config.log_dir),
        env_of=env_of,
        witness=AgentWitness(agent),
    )


class AgentWitness:
    """The node's agent is told which ranks run; their stacks are read here, beside them."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def came(self, attempt: int, worker: int, ranks: Mapping[int, RankProcess]) -> None:
        self._agent.came.remote(attempt, worker, dict(ranks))

    def gone(self, attempt: int, worker: int) -> None:
        self._agent.gone.remote(attempt, worker)

    def stacks(self, ranks: Mapping[int, RankProcess]) -> tuple[RankStack, ...]:
        return read_stacks(ranks, within_s=STACKS_BEFORE_END_S)


def free_port(host: str) -> int:
    """A port of this host that was free a moment ago. Who loses the race fails to bind and is restarted."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class HubLink:
    """A supervisor's `Link`: a thread waits for orders and wakes the selector through a pipe."""

    def __init__(self, hub: Any, attempt: int) -> None:
        self._hub = hub
        self._outbox = Outbox(hub)
        self._attempt = attempt
        self._orders: list[Order] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> HubLink:
        threading.Thread(target=self._listen, name=f"orders-{self._attempt}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed.set()
            os.close(self._write_fd)
            os.close(self._read_fd)

    def fileno(self) -> int:
        return self._read_fd

    def orders(self) -> list[Order]:
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read_fd, 4096)
            orders, self._orders = self._orders, []
        return orders

    def say(self, said: Sequence[Item]) -> None:
        self._outbox.send(said)

    @property
    def sent(self) -> Sent:
        """All that has been said."""
        return self._outbox.sent

    def _listen(self) -> None:
        known = 0
        while not self._closed.is_set():
            try:
                orders: list[Order] = ray.get(self._hub.orders.remote(self._attempt, known, LONG_POLL_S))
            except ray.exceptions.RayError as error:
                orders = [Abort(attempt=self._attempt, reason=f"lost the run's driver: {error}")]
            known += len(orders)
            self._pass_on(orders)
            if any(isinstance(order, Abort) for order in orders):
                return

    def _pass_on(self, orders: list[Order]) -> None:
        with self._lock:
            if orders and not self._closed.is_set():
                self._orders.extend(orders)
                with contextlib.suppress(BlockingIOError):
                    os.write(self._write_fd, b"!")
