"""Server-sent events: framing, and the answer that ends when its reader goes or the server stops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from orchestrator.api.service import Service

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0
KEEP_ALIVE = ": still here\n\n"


def frame(kind: str, data: dict[str, Any], event_id: str | None = None) -> str:
    """One event; JSON has no line breaks, so that one data line holds it."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'), default=str)}\n\n"


def streaming(service: Service, kind: str, frames: AsyncIterator[str]) -> StreamingResponse:
    """The answer; counted for as long as it is open."""

    async def counted() -> AsyncIterator[str]:
        with service.counts.streams.labels(kind).track_inprogress():
            # What is sent at once tells a reader, and every proxy in between, that the stream is there.
            yield ": open\n\n"
            async for text in frames:
                yield text

    return StreamingResponse(counted(), media_type=MEDIA_TYPE, headers={"x-accel-buffering": "no"})


def stream_answer(description: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that can stream."""
    return {200: {"description": description, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}
