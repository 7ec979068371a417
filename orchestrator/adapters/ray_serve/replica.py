"""What runs inside a Serve replica: one engine and its HTTP application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve

from serving.app import ReplicaSpec, build_replica


# No application is given to the decorator: Serve asks for it once the replica is built, so engine and ingress share
# the process and nothing is pickled but the spec.
@serve.ingress()
class EndpointReplica:
    """Serve constructs it in the replica's process and restarts it when `check_health` raises."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._replica, self._app = build_replica(spec)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Raises: RuntimeError when the engine computes no more."""
        if self._replica.failure is not None:
            raise RuntimeError(self._replica.failure)

    def __del__(self) -> None:
        replica: Any = getattr(self, "_replica", None)  # absent when the constructor failed
        if replica is not None:
            replica.close()
