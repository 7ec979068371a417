"""/api/v1/keys: who may ask for what. A key's secret is in one answer and nowhere else."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from orchestrator.api import models, render
from orchestrator.api.callers import Caller, lesser
from orchestrator.api.paging import after_of, page_of
from orchestrator.api.parts import Cursor, Limit, TheCaller, TheService
from orchestrator.api.problem_answers import responses
from orchestrator.api.problems import forbidden
from orchestrator.api.service import Service
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.keys import Role
from orchestrator.spec.errors import ExitCode

router = APIRouter(prefix="/api/v1/keys", tags=["keys"])
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]


@router.get("", response_model=models.KeyList, responses=responses())
async def list_keys(
    service: TheService, caller: TheCaller, limit: Limit = 100, cursor: Cursor = None
) -> dict[str, Any]:
    """Keys in order of id, without their secrets, page by page."""
    caller.need(Role.ADMIN)
    rows = await service.reading(service.read.api_keys, after=after_of(cursor), limit=limit + 1)
    shown, following = page_of(rows, limit, lambda row: row.id)
    return {"items": [render.key(row) for row in shown], "next_cursor": following}


@router.post("", status_code=201, response_model=models.IssuedKey, responses=responses(404, 409, 413))
async def issue_key(body: models.NewKey, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Make a key; its secret is in this answer and cannot be shown again."""
    caller.need(Role.ADMIN)
    await _check(service, caller, body)
    expires_s = None if body.expires_in_s is None else service.clock() + body.expires_in_s
    issued = await service.writer.do(
        lambda: service.ledger.issue_key(
            body.tenant, body.role, note=body.note, expires_s=expires_s, actor=caller.actor
        )
    )
    service.keys.forget()
    return {"id": issued.id, "tenant": body.tenant, "role": body.role, "key": issued.text}


async def _check(service: Service, caller: Caller, body: models.NewKey) -> None:
    found = await service.reading(service.read.cluster)
    tenants = {one.name: one for one in found[1].spec.tenants} if found else {}
    if not tenants:
        return
    if body.tenant not in tenants:
        known = ", ".join(sorted(tenants))
        raise LedgerError(f"there is no tenant {body.tenant!r}; there are {known}", code=ExitCode.UNKNOWN)
    most = Role(tenants[body.tenant].role)
    if lesser(body.role, most) is not body.role:
        detail = f"keys of tenant {body.tenant!r} may be {most} at most, not {body.role}"
        raise forbidden(detail, f"Apply a Cluster that gives the tenant the role {body.role}")


@router.delete("/{key}", response_model=models.Key, responses=responses(404, 409))
async def revoke_key(key: KeyId, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Refuse a key from now on."""
    caller.need(Role.ADMIN)
    await service.writer.do(lambda: service.ledger.revoke_key(key, actor=caller.actor))
    service.keys.forget()
    rows = await service.reading(service.read.api_keys)
    return render.key(next(row for row in rows if row.id == key))
