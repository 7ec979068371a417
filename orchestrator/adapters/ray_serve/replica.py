"""What runs inside a Serve replica: one engine and its HTTP application."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import ray
import structlog
from fastapi import FastAPI
from ray import serve
from ray._private.state import state as ray_state

from serving.app import ReplicaSpec, build_replica
from serving.versions import Wanted

_log = structlog.get_logger(__name__)
_NOTICE_POLL_S = 1.0


# No application is given to the decorator: Serve asks for it once the replica is built, so engine and ingress share
# the process and nothing is pickled but the spec.
@serve.ingress()
class EndpointReplica:
    """Serve constructs it in the replica's process and restarts it when `check_health` raises."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._started = build_replica(spec)
        self._closed = threading.Event()
        threading.Thread(target=self._watch_for_notice, name="preemption-notice", daemon=True).start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._started.app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve other versions without a restart. Raises: UserError; what is served stays."""
        if self._started.versions is not None:
            await asyncio.to_thread(self._started.versions.apply, Wanted.from_json(user_config))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `slo_policy`."""
        load = self._started.replica.load()
        return {"online_busy": load.online_busy, "slack": load.slack, "shed": load.shed}

    def arrivals(self) -> tuple[str, float, int]:
        """For lending: this replica's name, the time (UTC), and online requests since its start."""
        return serve.get_replica_context().replica_id.unique_id, time.time(), self._started.replica.num_asked

    def rolled_back(self) -> str | None:
        """Why this replica took its canary back, if it did."""
        verdict = self._started.versions.rolled_back if self._started.versions else None
        return f"{verdict.reason}: {verdict.detail}" if verdict else None

    def check_health(self) -> None:
        """Raises: RuntimeError when the engine computes no more."""
        if self._started.failure is not None:
            raise RuntimeError(self._started.failure)

    def _watch_for_notice(self) -> None:
        """Give batch rows back when this node is about to leave; Serve itself starts a replica elsewhere, sends no more
        requests here and waits for the online ones."""
        node_id = ray.get_runtime_context().get_node_id()
        while not self._closed.wait(_NOTICE_POLL_S):
            if node_id in ray_state.get_draining_nodes():
                _log.warning("node is draining: batch rows go back", node=node_id)
                self._started.drain()
                return

    def __del__(self) -> None:
        started: Any = getattr(self, "_started", None)  # absent when the constructor failed
        if started is not None:
            self._closed.set()
            started.close()
