"""The whole HTTP application of one replica; runs under any ASGI server, and inside Ray Serve."""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request

from serving.http import errors
from serving.http.body_limit import BodyLimit
from serving.http.listening import ClientGoneError
from serving.http.metrics import ServingMetrics
from serving.http.respond import Responder
from serving.http.routes import make_router
from serving.http.service import Service

# What proxies write into their logs for a client that hung up; nobody reads this answer.
_CLIENT_CLOSED_REQUEST = 499


def create_app(service: Service, *, max_body_bytes: int) -> FastAPI:
    """Routes, health, metrics and errors for `service`, whose replica the caller starts and closes."""
    app = FastAPI(title="Tideline endpoint", docs_url=None, redoc_url=None)
    metrics = ServingMetrics(service.replica)
    errors.install(app)
    app.add_exception_handler(ClientGoneError, _client_gone)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.include_router(make_router(service, Responder(service.replica, metrics)))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """The engine computes."""
        failure = service.replica.failure
        document = {"status": "failed", "reason": failure} if failure else {"status": "ok", "model": service.model.ref}
        return JSONResponse(document, status_code=503 if failure else 200)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counts of this replica."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
