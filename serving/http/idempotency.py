"""`Idempotency-Key` for answers that are made once and kept a while: a request sent twice costs its tokens once.

In the memory of this replica. Files and batches keep their keys in the store, where they outlive it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Request
from fastapi.responses import Response

from serving.http.callers import Caller
from serving.http.errors import NO_RETRY, ApiError

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=256)]
_KEPT_S = 3600.0
_MAX_KEPT = 1024
_MAX_BYTES = 2**20


@dataclass(slots=True)
class _Entry:
    fingerprint: str
    until_s: float
    answer: asyncio.Future[tuple[int, bytes, str]]


class Answers:
    """Successful answers by tenant and key. An answer that is an error is not kept: the next request tries again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str, str], _Entry] = OrderedDict()

    async def once(
        self, caller: Caller, key: str | None, request: Request, work: Callable[[], Awaitable[Response]]
    ) -> Response:  # fmt: skip
        """The answer of `work`, or of an earlier request with the same key; waits for one that is under way.

        Raises: ApiError 409 when the key came with another body.
        """
        if key is None:
            return await work()
        fingerprint = hashlib.sha256(await request.body()).hexdigest()
        name = (caller.tenant, request.url.path, key)
        self._forget_old()
        while (entry := self._entries.get(name)) is not None:
            if entry.fingerprint != fingerprint:
                message = "the Idempotency-Key was used for another request; use a new one"
                raise ApiError(409, message, code="idempotency_key_reused", param="Idempotency-Key", headers=NO_RETRY)
            await asyncio.wait({entry.answer})
            if not entry.answer.cancelled():
                status, body, media_type = entry.answer.result()
                return Response(body, status, headers={"idempotent-replayed": "true"}, media_type=media_type)
            # The first one failed or its client left: one of those that waited takes its place.
        return await self._first(name, fingerprint, work)

    async def _first(
        self, name: tuple[str, str, str], fingerprint: str, work: Callable[[], Awaitable[Response]]
    ) -> Response:  # fmt: skip
        entry = _Entry(fingerprint, self._clock() + _KEPT_S, asyncio.get_running_loop().create_future())
        self._entries[name] = entry
        try:
            response = await work()
            if response.status_code < 400 and len(response.body) <= _MAX_BYTES:
                entry.answer.set_result((response.status_code, bytes(response.body), response.media_type or ""))
            return response
        finally:
            if not entry.answer.done():
                del self._entries[name]
                entry.answer.cancel()

    def _forget_old(self) -> None:
        now_s = self._clock()
        for name in [name for name, entry in self._entries.items() if entry.until_s < now_s]:
            if self._entries[name].answer.done():
                del self._entries[name]
        while len(self._entries) > _MAX_KEPT:
            oldest = next((name for name, entry in self._entries.items() if entry.answer.done()), None)
            if oldest is None:
                return
            del self._entries[oldest]
