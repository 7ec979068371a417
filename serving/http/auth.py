"""Who may come in: an API key when there is a keys file, else this machine alone; and how often."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.spec.errors import UserError
from serving.http.callers import ANYONE, Caller, set_caller
from serving.http.errors import ApiError, from_limit
from serving.http.keys import BadKeyError, KeyRecord, KeyRing
from serving.http.limits import Limiter
from serving.http.metrics import ServingMetrics
from serving.http.paths import path_inside
from serving.policy import Tier

# Load balancers ask these without a key, and learn nothing from them.
_OPEN_PATHS = ("/healthz", "/readyz")


class Auth:
    """ASGI middleware, the outermost: nothing of a body is read before the caller is known."""

    def __init__(
        self, app: ASGIApp, ring: KeyRing | None, limiter: Limiter, metrics: ServingMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._app = app
        self._ring = ring
        self._limiter = limiter
        self._metrics = metrics
        self._clock = clock
        self._checking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_inside(scope) in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._caller(scope)
            self._count(caller, path_inside(scope))
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        set_caller(scope, caller)
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        """Raises: ApiError 401, 403 or 503."""
        if self._ring is None:
            if not _is_this_machine(scope):
                message = (
                    "this endpoint has no keys file and answers its own machine alone; "
                    "ask from there, or give its file 'keys'"
                )
                raise ApiError(403, message, code="loopback_only", kind="permission_error")
            return ANYONE
        try:
            record = await self._check(self._ring, _bearer(scope))
        except BadKeyError as error:
            raise ApiError(401, error.message, code=error.code, kind="authentication_error",
                           headers={"www-authenticate": "Bearer"}) from None  # fmt: skip
        except UserError:
            message = "the keys of this endpoint cannot be read; nobody is let in until they can"
            raise ApiError(503, message, code="keys_unreadable", kind="server_error") from None
        tiers = None if record.tiers is None else frozenset(Tier(name) for name in record.tiers)
        return Caller(tenant=record.tenant, key_id=record.id, tiers=tiers)

    async def _check(self, ring: KeyRing, key: str) -> KeyRecord:
        """One hash at a time and beside the event loop: whoever guesses keys keeps nobody else waiting."""
        record = ring.known(key)
        if record is None:
            async with self._checking:
                record = ring.known(key)  # whoever was before may have asked with the same key
                if record is None:
                    record = await asyncio.to_thread(ring.check, key)
        return record

    def _count(self, caller: Caller, path: str) -> None:
        """Raises: ApiError 429."""
        if path.startswith("/v1/") and (limited := self._limiter.arrive(caller.tenant, now_s=self._clock())):
            self._metrics.limited(caller.tenant, limited.limit)
            raise from_limit(limited)


def _bearer(scope: Scope) -> str:
    """Raises: BadKeyError."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return str(key.strip())
    raise BadKeyError(
        "missing_api_key", "an API key is needed: 'Authorization: Bearer tide_...'; 'tide keys create' makes one"
    )


def _is_this_machine(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return True  # no network address: a Unix socket, or a test without one
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is None or address.is_loopback
