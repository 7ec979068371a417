"""Server-sent events: framing, and the answer that ends when its reader goes or the server stops."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from orchestrator.api.callers import Caller
from orchestrator.api.service import Service

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = ": still here\n\n"
ASK_EVERY_S = 5.0
"""How often it is asked whether the reader of a stream may still read it, at the next frame after so long."""


def frame(kind: str, data: dict[str, Any], event_id: str | None = None) -> str:
    """One event; JSON has no line breaks, so that one data line holds it."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'), default=str)}\n\n"


def streaming(service: Service, kind: str, frames: AsyncGenerator[str, None], caller: Caller) -> StreamingResponse:
    """The answer; counted for as long as it is open. It ends when its reader's key is revoked or has expired: who
    connects again is refused."""

    async def counted() -> AsyncIterator[str]:
        with service.counts.streams.labels(kind).track_inprogress():
            # What is sent at once tells a reader, and every proxy in between, that the stream is there.
            yield ": open\n\n"
            asked_s = time.monotonic()
            async with contextlib.aclosing(frames):
                async for text in frames:
                    if time.monotonic() - asked_s >= ASK_EVERY_S:
                        asked_s = time.monotonic()
                        if not await service.reading(service.keys.still, caller):
                            return
                    yield text

    return StreamingResponse(counted(), media_type=MEDIA_TYPE, headers={"x-accel-buffering": "no"})


def stream_answer(description: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that can stream."""
    return {200: {"description": description, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}
