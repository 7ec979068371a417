"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from orchestrator.api import models, render
from orchestrator.api.parts import TheService
from orchestrator.api.problem_answers import responses
from orchestrator.api.service import Service
from orchestrator.ledger.errors import LedgerError
from orchestrator.ports import UnreachableError

router = APIRouter(tags=["health"])
_LEADER_SILENT_S = 10.0
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "Counts.", "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}
}


@router.get("/healthz", response_model=models.Health)
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


# Whoever balances load may ask for heads only.
router.add_api_route("/healthz", healthz, methods=["HEAD"], include_in_schema=False)


@router.get("/readyz", response_model=models.Readiness, responses={503: {"model": models.Readiness}})
async def readyz(service: TheService) -> JSONResponse:
    """Reads are answered, and somebody decides: this server, or another one that was heard of lately."""
    document = await service.reading(_readiness, service)
    return JSONResponse(document, status_code=200 if document["status"] == "ok" else 503)


router.add_api_route("/readyz", readyz, methods=["HEAD"], include_in_schema=False)


def _readiness(service: Service) -> dict[str, Any]:
    health = service.loop.health()
    try:
        leader = service.read.leader()
        holder = leader.holder
        heard = bool(holder) and service.clock() - leader.heartbeat_ms / 1000 < _LEADER_SILENT_S
        reason = "" if heard else "nobody leads"
        # Until its first cycle a leader knows no capacity.
        if heard and health.leading and health.cycles == 0:
            reason = health.last_error or "the first control cycle has not ended yet"
    except (UnreachableError, LedgerError):
        holder, reason = "", "the database does not answer"
    return {
        "status": "not_ready" if reason else "ok",
        "reason": reason,
        "version": importlib.metadata.version("tideline"),
        "leading": health.leading,
        "leader": holder,
        "cycles": health.cycles,
        "last_cycle_at": None if health.last_cycle_at_s is None else render.instant(health.last_cycle_at_s),
        "last_error": health.last_error,
    }


@router.get("/metrics", responses={**responses(), **_TEXT}, response_class=Response)
async def metrics(service: TheService) -> Response:
    """Counts of this server, in Prometheus' own format."""
    text = await service.reading(generate_latest, service.counts.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
