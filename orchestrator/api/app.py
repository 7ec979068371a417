"""The whole HTTP application of one server; how it is reached, and who is let in, is `guard` and `serve`."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI

from orchestrator.api import (
    cluster_routes,
    code_routes,
    event_routes,
    health_routes,
    inside_routes,
    job_routes,
    key_routes,
    log_routes,
    node_routes,
    openapi,
    plan_routes,
    problem_answers,
    schedule_routes,
)
from orchestrator.api.parts import known_parameters
from orchestrator.api.service import Service


def create_app(service: Service) -> FastAPI:
    """All routes over one service, without the door: wrap it in a `Guard` before anybody reaches it."""
    version = importlib.metadata.version("tideline")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.hub.start()
        try:
            yield
        finally:
            await service.hub.stop()

    app = FastAPI(
        title="Tideline control plane",
        version=version,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(known_parameters)],
        # To another address of the same server, as this one believes: behind a proxy that does TLS, in plain text.
        redirect_slashes=False,
    )
    app.state.service = service
    problem_answers.install(app)
    for room in (
        plan_routes,
        log_routes,
        job_routes,
        code_routes,
        inside_routes,
        event_routes,
        cluster_routes,
        node_routes,
        key_routes,
        health_routes,
        schedule_routes,
    ):
        app.include_router(room.router)
    openapi.install(app)
    return app
