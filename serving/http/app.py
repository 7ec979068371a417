"""The whole HTTP application of one replica; runs under any ASGI server, and inside Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request

from serving.batch.runner import BatchRunner, RunnerConfig
from serving.http import errors
from serving.http.auth import Auth
from serving.http.batch_routes import make_batch_router
from serving.http.batch_rows import BatchRows
from serving.http.body_limit import BodyLimit
from serving.http.documents import ERRORS, Responses, json_body
from serving.http.file_routes import make_file_router
from serving.http.keys import KeyRing
from serving.http.limits import Limiter, TenantLimits
from serving.http.listening import ClientGoneError
from serving.http.metrics import ServingMetrics
from serving.http.respond import Responder
from serving.http.routes import make_router
from serving.http.service import Service
from serving.policy import Tier

# What proxies write into their logs for a client that hung up; nobody reads this answer.
_CLIENT_CLOSED_REQUEST = 499
_HEARTBEAT_S = 5.0
_FILES_PATH = "/v1/files"
_STATUS = {"type": "object", "required": ["status"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """How the application meets the world. `ring` None = no keys, and this machine alone."""

    max_body_bytes: int
    ring: KeyRing | None = None
    limits: TenantLimits = field(default_factory=TenantLimits)
    objectives: Mapping[Tier, float] = field(default_factory=dict)


class _Application(FastAPI):
    """FastAPI documents a 422 for whatever it checks itself; ours is a 400, so the document must not say otherwise."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            for path in super().openapi()["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
        assert self.openapi_schema is not None
        return self.openapi_schema


@dataclass(frozen=True, slots=True)
class Assembled:
    """The application, its counts, and what computes its batches; the caller starts and drains the runner."""

    app: FastAPI
    metrics: CollectorRegistry
    runner: BatchRunner | None


def assemble(service: Service, config: HttpConfig, runner: RunnerConfig | None = None) -> Assembled:
    """Routes, health, metrics and errors for `service`, whose replica the caller starts and closes.

    `runner` says how rows of batches are pulled; None = twice as many at once as the engine has slots.
    """
    app = _Application(title="Tideline endpoint", docs_url=None, redoc_url=None)
    metrics = ServingMetrics(service.replica, config.objectives)
    limiter = Limiter(config.limits)
    responder = Responder(service.replica, metrics, limiter)
    errors.install(app)
    app.add_exception_handler(ClientGoneError, _client_gone)
    max_file_bytes = service.batches.rules.max_file_bytes if service.batches else config.max_body_bytes
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes, streamed={_FILES_PATH: max_file_bytes})
    app.add_middleware(Auth, ring=config.ring, limiter=limiter, metrics=metrics, clock=service.replica.clock)
    app.include_router(make_router(service, responder))
    _add_health(app, service, metrics)
    if service.batches is None:
        return Assembled(app, metrics.registry, None)
    rows = BatchRows(service, responder)
    app.include_router(make_file_router(service.batches, rows))
    app.include_router(make_batch_router(service.batches))
    pull = BatchRunner(
        service.batches.store,
        rows.compute,
        runner or _pull_config(service, service.batches.store.leases.rules.lease_s),
        estimate_tokens_per_s=service.replica.batch_tokens_per_s(),
        observe=lambda row, outcome: metrics.batch_row(row.tenant, outcome),
    )
    return Assembled(app, metrics.registry, pull)


def _pull_config(service: Service, lease_s: float) -> RunnerConfig:
    # Two heartbeats may fail before a lease runs out.
    rows_at_once = 2 * service.replica.num_slots
    return RunnerConfig(rows_at_once=rows_at_once, heartbeat_s=min(_HEARTBEAT_S, lease_s / 3))


def create_app(service: Service, *, max_body_bytes: int) -> FastAPI:
    """The application alone, without keys and batch rows."""
    return assemble(service, HttpConfig(max_body_bytes=max_body_bytes)).app


def _add_health(app: FastAPI, service: Service, metrics: ServingMetrics) -> None:
    @app.get("/healthz", responses={200: json_body("It does.", _STATUS)})
    async def healthz() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={200: json_body("It does.", _STATUS), 503: json_body("It does not.", _STATUS)})
    async def readyz() -> JSONResponse:
        """The engine computes."""
        failure = service.replica.failure
        document = {"status": "failed", "reason": failure} if failure else {"status": "ok", "model": service.model.ref}
        return JSONResponse(document, status_code=503 if failure else 200)

    # FastAPI would document JSON; the format is Prometheus' own.
    text: Responses = {
        200: {"description": "Counts.", "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}
    }

    @app.get("/metrics", responses={**ERRORS, **text}, response_class=Response)
    async def prometheus() -> Response:
        """Counts of this replica."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
