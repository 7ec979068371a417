"""What routes share: the caller, the service, parameters and their limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from fastapi.routing import APIRoute

from orchestrator.api.admission import unknown_name
from orchestrator.api.callers import Caller
from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.api.service import Service
from orchestrator.ledger.keys import Role
from orchestrator.ledger.rows import JobRow
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.names import JOB_PATTERN, NAME_PATTERN
from orchestrator.spec.scalars import shown

MOST_ITEMS = 1000
KEY_PATTERN = r"^[\x21-\x7e]{1,128}$"


# Asynchronous although they wait for nothing: FastAPI runs what is not on a thread.
async def get_service(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


async def get_caller(request: Request) -> Caller:
    """Who asks; the guard found out."""
    caller: Caller = request.state.caller
    return caller


TheService = Annotated[Service, Depends(get_service)]
TheCaller = Annotated[Caller, Depends(get_caller)]
JobId = Annotated[str, Path(pattern=JOB_PATTERN, description="NAME = its latest run, NAME.N = that run.")]
NameFilter = Annotated[str | None, Query(pattern=NAME_PATTERN)]
Limit = Annotated[int, Query(ge=1, le=MOST_ITEMS)]
Cursor = Annotated[str | None, Query(max_length=400, description="next_cursor of the page before.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="The same key with the same body is answered as before; with another body it is a conflict.",
    ),
]


async def known_parameters(request: Request) -> None:
    """Raises: ApiError (422) for a parameter that the route does not have: passed over, `?states=running` would list
    everything."""
    route = request.scope["route"]
    if isinstance(route, APIRoute) and request.url.path.startswith("/api/"):
        refuse_unknown(request.query_params.keys(), _parameters(route))


def _parameters(route: APIRoute) -> frozenset[str]:
    found, todo = set[str](), [route.dependant]
    while todo:
        one = todo.pop()
        found |= {field.alias for field in one.query_params}
        todo += one.dependencies
    return frozenset(found)


def refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Raises: ApiError (422) for the first of these query parameters that is not known."""
    for name in given:
        if name not in known:
            step = did_you_mean(name, tuple(sorted(known))) or "GET /openapi.json describes every parameter"
            have = f"there are {', '.join(sorted(known))}" if known else "there are none here"
            raise ApiError(
                422,
                ProblemCode.INVALID,
                f"there is no parameter {shown(name)}; {have}",
                exit_code=ExitCode.INVALID,
                where="query",
                next_step=step,
            )


async def job_for(service: Service, caller: Caller, name: str, role: Role = Role.VIEWER) -> JobRow:
    """A job that the caller may do that with. Raises: UnknownJobError; ApiError (403)."""
    row = await service.job(name)
    caller.need_job(row, role)
    return row


async def known_names(
    service: Service, *, queue: str | None = None, tenant: str | None = None, pool: str | None = None
) -> None:
    """Raises: LedgerError (unknown) for a name that the Cluster does not have. Asked where nothing was found: what is
    left of a queue that was removed can still be read."""
    if queue is tenant is pool is None:
        return
    spec = (await service.applied()).cluster.spec
    queues = [one.name for one in spec.queues] or ["default"]
    tenants = [one.name for one in spec.tenants]
    pools = [one.name for one in spec.pools]
    for noun, name, names in (("queue", queue, queues), ("tenant", tenant, tenants), ("pool", pool, pools)):
        if name is not None and names and name not in names:
            raise unknown_name(noun, name, names, f"query {noun}")
