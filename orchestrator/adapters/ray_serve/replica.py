"""What runs inside a Serve replica: one engine and its HTTP application."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import ray
import structlog
from fastapi import FastAPI
from prometheus_client import generate_latest
from ray import serve
from ray._private import worker as ray_worker
from ray._private.state import state as ray_state

from orchestrator.adapters.ray_serve.following import Followed, Follower, Stand
from orchestrator.adapters.ray_serve.leaving import Departure, Leave, Signs
from orchestrator.adapters.ray_serve.scrape import AllReplicas
from serving.app import ReplicaSpec, build_replica
from serving.http.proxy import CARRIED, HEADER, Renamed
from serving.versions import Wanted

_log = structlog.get_logger(__name__)
_SIGNS_POLL_S = 1.0
_SCRAPE_TIMEOUT_S = 5.0


# No application is given to the decorator: Serve asks for it once the replica is built, so engine and ingress share
# the process and nothing is pickled but the spec.
@serve.ingress()
class EndpointReplica:
    """Serve constructs it in the replica's process and restarts it when `check_health` raises."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._built = spec.built
        self._started = build_replica(spec)
        self._follower = Follower(self._serve_versions)
        self._closed = threading.Event()
        departure = Departure(spec.endpoint.spec.replicas.drain)
        threading.Thread(target=self._watch_for_the_end, args=(departure,), name="signs", daemon=True).start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._started.app
        app.add_middleware(Renamed, before=CARRIED, after=HEADER)
        app.add_middleware(AllReplicas, ask_all=_exposed_by_all)
        return app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve other versions without a restart; `followed` says what came of it.

        Raises: UserError before the first request, when the wanted version cannot be served.
        """
        if self._follower.followed.wish is None:
            await asyncio.to_thread(self._follower.begin, user_config)
        else:
            self._follower.follow(user_config)

    def followed(self) -> Followed:
        """Which wish of `reconfigure` this replica has carried out."""
        return self._follower.followed

    def stand(self) -> Stand:
        """What this replica was built from, serves, and thinks of its canary."""
        return Stand(built=self._built, followed=self._follower.followed, rolled_back=self.rolled_back())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `slo_policy`."""
        load = self._started.replica.load()
        return {"online_busy": load.online_busy, "slack": load.slack, "shed": load.shed}

    def arrivals(self) -> tuple[str, float, int]:
        """For lending: this replica's name, the time (UTC), and online requests since its start."""
        return serve.get_replica_context().replica_id.unique_id, time.time(), self._started.replica.num_asked

    def exposed(self) -> tuple[str, str]:
        """For `/metrics`: this replica's name, and what it counts in Prometheus' format."""
        text = generate_latest(self._started.metrics).decode()
        return serve.get_replica_context().replica_id.unique_id, text

    def rolled_back(self) -> str | None:
        """Why this replica took its canary back, if it did."""
        verdict = self._started.versions.rolled_back if self._started.versions else None
        return f"{verdict.reason}: {verdict.detail}" if verdict else None

    def check_health(self) -> None:
        """Raises: RuntimeError when the engine computes no more."""
        if self._started.failure is not None:
            raise RuntimeError(self._started.failure)

    def _serve_versions(self, user_config: dict[str, Any]) -> None:
        if self._started.versions is not None:
            self._started.versions.apply(Wanted.from_json(user_config))

    def _watch_for_the_end(self, departure: Departure) -> None:
        """Give work up when this replica or its node is about to go, online answers excepted."""
        node_id, given_up = ray.get_runtime_context().get_node_id(), Leave.NOTHING
        while not self._closed.wait(_SIGNS_POLL_S):
            leave = departure.give_up(_signs(node_id), now_s=time.time())
            if leave > given_up:
                _log.warning("this replica leaves", gives_up=leave.name.lower(), node=node_id)
                given_up = leave
                self._started.give_rows_back()
            if leave is Leave.BATCH_REQUESTS:
                self._started.drain()
                return

    def __del__(self) -> None:
        started: Any = getattr(self, "_started", None)  # absent when the constructor failed
        if started is not None:
            self._closed.set()
            started.close()


async def _exposed_by_all() -> dict[str, str]:
    """What every replica that answers in time counts; none at all while Serve knows none."""
    context = serve.get_replica_context()
    handle = serve.get_deployment_handle(context.deployment, context.app_name)

    def ask() -> list[Any]:
        asked = handle.broadcast("exposed")
        return list(asked.results(timeout_s=_SCRAPE_TIMEOUT_S, return_exceptions=True))

    return dict(answer for answer in await asyncio.to_thread(ask) if not isinstance(answer, BaseException))


def _signs(node_id: str) -> Signs:
    draining = ray_state.get_draining_nodes()
    goes_at_s = (draining[node_id] / 1000 or math.inf) if node_id in draining else None
    return Signs(stopping=_is_stopping(), node_goes_at_s=goes_at_s)


def _is_stopping() -> bool:
    """Whether Serve has told this replica to stop. It tells our code only when nobody is answered any more, which for
    rows of batches is too late (tests/cluster/test_serve_scaling.py)."""
    worker = ray_worker.global_worker
    actor = worker.actors.get(worker.actor_id)
    return actor is not None and bool(actor._replica_impl._shutting_down)
