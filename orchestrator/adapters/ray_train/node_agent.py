"""One light actor on every node of a run: it owns what must outlive worker groups there.

That is the fork server whose stem has imported torch, the keeper with the newest snapshots, and the watcher for the
cloud's notices. Each is a Ray-free class with `start()` and `close()`; this file gives them a home, a folder and an
address. It imports no torch, and ends with the driver that owns it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray
import structlog
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.train.forkserver import ForkServer, ForkServerStarter
from jobs.train.plain_starter import PlainStarter
from jobs.train.readahead import read_ahead
from jobs.train.starters import RankStarter
from orchestrator.adapters.ray_cluster.drain import drain_node
from orchestrator.adapters.ray_cluster.processes import SHARED_MEMORY_NOTE
from orchestrator.adapters.ray_train.commands import Commands, Heard
from orchestrator.adapters.ray_train.keeper_host import KeeperFacts, KeeperHost
from orchestrator.adapters.ray_train.names import NAMESPACE, agent_name, hub_name, short_id
from orchestrator.adapters.ray_train.notice_desk import NoticeDesk, NoticePlan, notice_config
from orchestrator.adapters.ray_train.protocol import Announced
from orchestrator.adapters.ray_train.roster import Roster
from orchestrator.adapters.ray_train.stacks import RankProcess, RankStack, read_stacks
from orchestrator.adapters.ray_train.terminal import Size, Terminal
from orchestrator.spec.errors import ExitCode, UserError

log = structlog.get_logger(__name__)

# Importing torch and DeepSpeed takes 7 s on a quiet core; several nodes of one busy machine share it.
STEM_TIMEOUT_S = 300.0
# A reason for a drain waits this long for the driver's mailbox.
ANNOUNCE_S = 1.0
CACHE_VARIABLE = "TIDE_NODE_CACHE"
"""Names a folder on a node's own fast disk: data sets are copied there once, and its ranks read them from there."""
PEOPLE = "people"
"""Threads of the actor that serve people alone: whoever watches a command must not keep the run's own calls waiting."""
_PEOPLE_THREADS = 12
F = TypeVar("F", bound=Callable[..., Any])
_for_people: Callable[[F], F] = ray.method(concurrency_group=PEOPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """Where a node's services listen, "" where there is none, and where its ranks read the data. `secrets`: variables
    for them alone."""

    node_id: str
    fork_socket: str
    keeper: KeeperFacts | None
    dataset_dir: str
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def keeper_socket(self) -> str:
        """Where this node's ranks reach its keeper."""
        return self.keeper.socket_path if self.keeper else ""

    def starter(self) -> RankStarter:
        """How ranks start on this node: forked from the warm stem, else by a plain new interpreter."""
        return ForkServerStarter(self.fork_socket) if self.fork_socket else PlainStarter()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The same for every node of a run's session. `folders`: what else every node must see where the driver does."""

    session: str
    log_dir: str
    fork: bool
    keep: bool
    keeper_token: bytes
    keeper_limit_bytes: int | None
    preload: tuple[str, ...]
    dataset_dir: str
    folders: tuple[str, ...]
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    notices: NoticePlan


class NodeAgent:
    """The actor. Its constructor returns when ranks can be started."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        require_home((config.dataset_dir, *config.folders))
        self._node_id: str = ray.get_runtime_context().get_node_id()
        self._stack = contextlib.ExitStack()
        self._folder = self._make_folder()
        self._roster = Roster()
        self._commands = Commands(self._roster)
        self._stack.callback(self._commands.close)
        self._keeper = self._start_keeper() if config.keep else None
        self._fork_server: ForkServer | None = None
        self._notices = self._start_notices()
        self._dataset_dir = Path(config.dataset_dir)
        # The kernel may hold up whoever asks it to read, and so may a disk; the stem's imports take time, too.
        self._is_close = threading.Event()
        self._bringing = threading.Thread(target=self._bring_data, name="read-ahead", daemon=True)
        self._bringing.start()
        self._fork_socket = self._start_fork_server() if config.fork else ""

    def _bring_data(self) -> None:
        try:
            if disk := os.environ.get(CACHE_VARIABLE):
                from jobs.data.close_by import close_by  # here: it brings numpy, and few nodes need it

                self._dataset_dir = close_by(self._dataset_dir, Path(disk))
        finally:
            self._is_close.set()
        read_ahead(self._dataset_dir)

    def _make_folder(self) -> Path:
        """A folder of this node's own, with a short path and access for its owner alone, removed on closing."""
        named = os.environ.get("TIDE_NODE_DIR")
        root = Path(named or tempfile.gettempdir()) / f"tide-{short_id(self._config.session + self._node_id)}"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        return root

    def _start_keeper(self) -> KeeperHost:
        name = short_id(self._config.session + self._node_id)
        host = ray.util.get_node_ip_address()
        keeper = KeeperHost(self._node_id, name, host, self._config.keeper_token, self._config.keeper_limit_bytes)
        self._stack.callback(keeper.close)
        # Whoever ends this node without asking finds here what else to remove.
        (self._folder / SHARED_MEMORY_NOTE).write_text(str(keeper.folder), encoding="utf-8")
        return keeper

    def _start_notices(self) -> NoticeDesk:
        """Before the stem warms up: a node may be told to go while it does."""
        hub = ray.get_actor(hub_name(self._config.session), namespace=NAMESPACE)
        gcs_address: str = ray.get_runtime_context().gcs_address

        def announce(announced: Announced) -> None:
            # The driver should have it before Ray's drain, which gives no reason; one that hangs must not hold that up.
            ray.wait([hub.note.remote(announced)], timeout=ANNOUNCE_S)

        def drain(deadline_s: float | None, reason: str) -> None:
            refusal = drain_node(gcs_address, self._node_id, deadline_s=deadline_s, reason=reason)
            if refusal:
                log.warning("Ray does not drain this node", node=self._node_id, refusal=refusal)

        config = notice_config(self._config.notices, os.environ, ray.util.get_node_ip_address())
        desk = NoticeDesk(self._node_id, config, announce=announce, drain=drain)
        self._stack.callback(desk.close)
        return desk

    def _start_fork_server(self) -> str:
        """Warm a stem; its socket's path."""
        log = (Path(self._config.log_dir) / f"stem-{short_id(self._node_id)}.log").open("ab")
        self._stack.callback(log.close)
        server = ForkServer(
            self._folder, preload=self._config.preload, env=self._config.environment, log_fd=log.fileno()
        )
        self._stack.callback(server.close)
        server.warm(STEM_TIMEOUT_S)
        self._fork_server = server
        return str(server.socket_path)

    def facts(self) -> AgentFacts:
        """Where this node's services listen, once its data are close by. A stem that died is started again first."""
        self._is_close.wait()
        if self._fork_server is not None and self._fork_server.ensure():
            self._fork_server.wait_ready(STEM_TIMEOUT_S)
        keeper = self._keeper.facts() if self._keeper else None
        return AgentFacts(
            node_id=self._node_id,
            fork_socket=self._fork_socket,
            keeper=keeper,
            dataset_dir=str(self._dataset_dir),
            secrets=self._config.secrets,
        )

    def keeper_call(self, method: str, *args: Any) -> Any:
        """Call a method of this node's `KeeperHost`; None where there is no keeper."""
        return getattr(self._keeper, method)(*args) if self._keeper else None

    def drained(self) -> None:
        """The run has left this node."""
        self._notices.drained()

    def ping(self) -> str:
        """The node's id: the node is alive and its services run."""
        return self._node_id

    # -- ranks of this node, and people who look at them -----------------------------------------------------------

    def came(self, attempt: int, worker: int, ranks: Mapping[int, RankProcess]) -> None:
        """A supervisor of this node has started ranks."""
        self._roster.came(attempt, worker, ranks)

    def gone(self, attempt: int, worker: int) -> None:
        """A supervisor's ranks are gone, and with them what ran beside them."""
        for rank in self._roster.gone(attempt, worker):
            self._commands.rank_left(rank)

    @_for_people
    def stacks(self, rank: int | None) -> tuple[RankStack, ...]:
        """Where the ranks of this node stand; of one rank, or of all."""
        ranks = self._roster.ranks()
        return read_stacks(ranks if rank is None else {rank: self._roster.find(rank)})

    @_for_people
    def begin(self, rank: int, command: Sequence[str], terminal: Terminal | None = None) -> str:
        """Start a command beside a rank; what it is called. Raises: UserError."""
        return self._commands.begin(rank, command, terminal)

    @_for_people
    def hear(self, name: str, taken: int, wait_s: float) -> Heard:
        """What a command has said. Raises: UserError."""
        return self._commands.find(name).hear(taken, wait_s)

    @_for_people
    def tell(self, name: str, data: bytes, end: bool, size: Size | None = None) -> bool:
        """Input for a command, its end, or its terminal's size; False: try again later. Raises: UserError."""
        return self._commands.find(name).tell(data, end=end, size=size)

    @_for_people
    def let_go(self, name: str) -> None:
        """End a command if it runs, and forget it."""
        self._commands.let_go(name)

    def close(self) -> None:
        """End everything this agent started; safe to call twice."""
        self._stack.close()


def require_home(folders: Sequence[str]) -> None:
    """Raises: UserError if this node does not see what the run needs."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(
                f"does not see {folder}",
                code=ExitCode.UNREACHABLE,
                where=f"node {ray.util.get_node_ip_address()}",
                next_step="TIDE_HOME must be on storage that all nodes see at the same path",
            )


def start_agent(config: AgentConfig, node_id: str) -> Any:
    """The agent of this session on a node, started if it is not there yet; its services may still be warming up."""
    return (
        ray.remote(concurrency_groups={PEOPLE: _PEOPLE_THREADS})(NodeAgent)
        .options(
            name=agent_name(config.session, node_id),
            namespace=NAMESPACE,
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=8,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(config)
    )
