"""A Ray cluster of one or more nodes on this machine, which leaves nothing behind.

Every node is a real raylet with folders of its own, so that a node can be drained, killed and forgotten as a machine
would be. Everything listens on loopback only and, where Ray allows it, asks for a token. Never `ray stop`: it ends
other people's clusters, too.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.services import wait_for_node

from orchestrator.adapters.ray_cluster import loopback
from orchestrator.adapters.ray_cluster.drain import drain_node
from orchestrator.adapters.ray_cluster.environment import loopback_environment, require_token, sigterm_stays
from orchestrator.adapters.ray_cluster.haproxy import closed_haproxy
from orchestrator.adapters.ray_cluster.messages import messages_to_log
from orchestrator.adapters.ray_cluster.processes import end_processes, node_processes, remove_folders
from orchestrator.spec.errors import ExitCode, UserError

# Ray's own minimum is 75 MB; the product keeps tensors out of the object store, so a small one does.
OBJECT_STORE_BYTES = 128 * 1024 * 1024
START_TIMEOUT_S = 60
# In a node's own folder (TIDE_NODE_DIR): a local node hears of its end from nobody but this file.
NOTICE_FILE = "notice"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSize:
    """What a local node offers. CPUs are Ray's bookkeeping: they may exceed the cores there are."""

    num_cpus: float = 2
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    object_store_bytes: int = OBJECT_STORE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNode:
    """A running local node: its Ray id, its folder, and Ray's handle on its processes."""

    node_id: str
    folder: Path
    handle: Any


class LocalCluster:
    """A context manager around Ray nodes of this machine.

    `start` and `add_node` must run in the main thread: Ray ties the life of a node's processes to the thread that
    started them. Leaving the context, also by an exception or Ctrl-C, ends every process and removes every folder.
    """

    def __init__(self, nodes: tuple[NodeSize, ...] = (NodeSize(),), *, namespace: str = "tideline") -> None:
        if not nodes:
            raise ValueError("a cluster needs at least one node")
        self._sizes = nodes
        self._namespace = namespace
        self._nodes: dict[str, LocalNode] = {}
        self._num_started = 0
        self._root: Path | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> LocalCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Address of the control store, for `ray.init(address=...)`."""
        assert self._nodes, "the cluster is not running"
        return loopback.for_ray_init(str(self.nodes[0].handle.gcs_address))

    @property
    def nodes(self) -> tuple[LocalNode, ...]:
        """Nodes started here and not yet removed, in start order; the first is the head."""
        return tuple(self._nodes.values())

    def start(self) -> LocalCluster:
        """Start every node and connect this process.

        Raises: UserError (unreachable) when this process is connected to a Ray cluster already, or Ray cannot start.
        """
        if ray.is_initialized():
            raise UserError(
                "this process is connected to a Ray cluster already",
                code=ExitCode.UNREACHABLE,
                next_step="Disconnect it first, or pass its address instead of starting a local one.",
            )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        self._stack.enter_context(loopback_environment())
        self._stack.enter_context(messages_to_log())
        require_token()
        # Ray's socket paths must stay under 107 characters, so the root is short whatever TMPDIR says.
        self._root = Path(tempfile.mkdtemp(prefix="tide-", dir="/tmp"))
        self._stack.enter_context(closed_haproxy(self._root))
        for size in self._sizes:
            self.add_node(size)
        with sigterm_stays():
            ray.init(
                address=self.address,
                namespace=self._namespace,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )

    def add_node(self, size: NodeSize | None = None) -> LocalNode:
        """Start one more node, the first one as the head, and wait until the cluster knows it."""
        assert self._root is not None, "the cluster is not running"
        folder = self._root / f"n{self._num_started}"
        folder.mkdir()
        self._num_started += 1
        params = self._params(size or self._sizes[-1], folder)
        try:
            handle = Node(params, head=not self._nodes, shutdown_at_exit=True, spawn_reaper=True)
            node = LocalNode(node_id=handle.node_id, folder=folder, handle=handle)
            self._nodes[node.node_id] = node
            wait_for_node(handle.gcs_address, handle.plasma_store_socket_name, START_TIMEOUT_S)
        except Exception as error:  # Ray raises this very class where a node does not come up in time
            raise UserError(
                f"Ray could not start a node here: {_first_line(error)}",
                code=ExitCode.UNREACHABLE,
                next_step="Try again when this machine has less to do; 'tide doctor' checks what it lacks.",
            ) from error
        return node

    def _params(self, size: NodeSize, folder: Path) -> RayParams:
        """Ray's parameters of one node. `ray.cluster_utils.Cluster` does nearly this, but also overwrites the file
        in which other programs of this machine look for *their* cluster."""
        params = RayParams(
            num_cpus=size.num_cpus,
            num_gpus=size.num_gpus,
            resources=dict(size.resources),
            labels=dict(size.labels),
            object_store_memory=size.object_store_bytes,
            include_dashboard=False,
            temp_dir=str(folder),
            env_vars={"TIDE_NODE_DIR": str(folder / "tide"), "TIDE_NOTICES": "file", "TIDE_NOTICE_FILE": NOTICE_FILE},
            node_ip_address=loopback.node_address(self._num_started),
            min_worker_port=0,
            max_worker_port=0,
            no_monitor=True,  # the autoscaler's monitor: nothing to scale here, 85 MB
            include_log_monitor=False,  # carries worker output to the driver's terminal, where none is wanted
        )
        if self._nodes:
            params.update_if_absent(gcs_address=self.nodes[0].handle.gcs_address)
            params.dashboard_agent_listen_port = None
        return params

    def drain_node(self, node_id: str, *, deadline_s: float, reason: str = "spot notice") -> None:
        """Announce that a node will go away `deadline_s` seconds from now, as a cloud's notice does."""
        refusal = drain_node(self.address, node_id, deadline_s=deadline_s, reason=reason)
        if refusal:
            raise ValueError(f"Ray refused to drain {node_id}: {refusal}")

    def notice_file(self, node_id: str) -> Path:
        """The file whose appearance is a notice to this node, as `jobs.train.notices.file` reads it."""
        return self._nodes[node_id].folder / "tide" / NOTICE_FILE

    def kill_node(self, node_id: str) -> None:
        """End a node as a power cut would: every process by SIGKILL, then its folders, so that nothing of it helps."""
        node = self._nodes.pop(node_id)
        end_processes(node_processes(node.folder))
        node.handle.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        remove_folders(node.folder)

    def stop(self) -> None:
        """End everything this object started; safe to call twice and after a failed start."""
        root, self._root = self._root, None
        nodes, self._nodes = list(self._nodes.values()), {}
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self._stack.close)
            if root:
                victims = node_processes(root)
                cleanup.callback(remove_folders, root)
                cleanup.callback(lambda: end_processes(victims))
            for node in nodes:  # called in reverse order: the head, which the others report to, ends last
                cleanup.callback(node.handle.kill_all_processes, check_alive=False, allow_graceful=False, wait=True)
            if ray.is_initialized():
                cleanup.callback(ray.shutdown)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def num_local_gpus() -> int:
    """GPUs of this machine that Ray would manage."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    return int(get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators())
