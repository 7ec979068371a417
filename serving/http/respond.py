"""One generation to one HTTP answer, whole or streamed, with its metrics."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serving.engine.generation import Answer, Delta, EngineFailedError, Finished, FinishReason, Generation, RefusedError
from serving.engine.replica import Replica
from serving.http.answers import Writer
from serving.http.errors import NO_RETRY, ApiError, from_engine
from serving.http.listening import ClientGoneError, events, while_listening
from serving.http.metrics import ServingMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How an answer leaves. `prefix` is text to send before it (the prompt, with echo).

    `timeout_s` ends the answer with what it has; with `timeout_is_error` an answer that is not streamed becomes a 408
    instead, because the client said how long it waits.
    """

    stream: bool
    include_usage: bool = False
    prefix: str = ""
    timeout_s: float
    timeout_is_error: bool = False


class Responder:
    """Starts generations on the replica and turns their events into responses."""

    def __init__(self, replica: Replica, metrics: ServingMetrics) -> None:
        self._replica = replica
        self._metrics = metrics

    async def respond(self, generation: Generation, writer: Writer, delivery: Delivery, request: Request) -> Response:
        """Raises: RefusedError, EngineFailedError, ClientGoneError, ApiError 408; the slot is free by then."""
        reading = _Reading(self._replica, self._metrics, generation, delivery.timeout_s)
        if not delivery.stream:
            with reading.accounted():
                text, finished = await while_listening(reading.rest(), request.receive)
            if finished.reason is FinishReason.TIMEOUT and delivery.timeout_is_error:
                raise ApiError(408, "the request ran out of the time it allowed", code="timeout", headers=NO_RETRY)
            return JSONResponse(writer.whole(delivery.prefix + text, finished))
        with reading.accounted():
            # Before the headers, so that a refusal is a status and not a broken stream.
            first = await while_listening(reading.next(), request.receive)
        return _EventStream(reading, first, writer, delivery)


class _Reading:
    """One answer being read, and its entry in the metrics."""

    def __init__(self, replica: Replica, metrics: ServingMetrics, generation: Generation, timeout_s: float) -> None:
        self._replica = replica
        self._metrics = metrics
        self._generation = generation
        self._answer: Answer = replica.submit(generation)
        self._events = events(self._answer, timeout_s=timeout_s)
        self._started = False

    async def next(self) -> Delta | Finished:
        """The next event."""
        event = await anext(self._events)
        if not self._started:
            self._started = True
            self._metrics.first_token(self._generation.tier, self._elapsed_s)
        if isinstance(event, Finished):
            counts = {"prompt": len(self._generation.prompt), "completion": event.num_tokens}
            self._metrics.answered(self._generation.tier, event.reason, self._elapsed_s, **counts)
        return event

    async def rest(self) -> tuple[str, Finished]:
        """All text that is still to come, and the end."""
        pieces: list[str] = []
        while isinstance(event := await self.next(), Delta):
            pieces.append(event.text)
        return "".join(pieces), event

    @contextlib.contextmanager
    def accounted(self) -> Iterator[None]:
        """Count an exception as the request's outcome, and free its slot."""
        try:
            yield
        except BaseException as error:
            self._answer.cancel()
            self._metrics.ended(self._generation.tier, _outcome(error))
            raise

    @property
    def _elapsed_s(self) -> float:
        return self._replica.clock() - self._generation.arrival_s


class _EventStream(Response):
    """Server-sent events while the client listens. Once headers are out, an error can only be an event."""

    def __init__(self, reading: _Reading, first: Delta | Finished, writer: Writer, delivery: Delivery) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._reading = reading
        self._first = first
        self._writer = writer
        self._delivery = delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGoneError), self._reading.accounted():
            await while_listening(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for document in self._documents():
                await send({"type": "http.response.body", "body": _event(json.dumps(document)), "more_body": True})
        except EngineFailedError as error:
            body = _event(json.dumps(from_engine(error).body))
            await send({"type": "http.response.body", "body": body, "more_body": False})
            raise
        await send({"type": "http.response.body", "body": _event("[DONE]"), "more_body": False})

    async def _documents(self) -> AsyncIterator[dict[str, Any]]:
        if self._delivery.prefix:
            yield self._writer.chunk(self._delivery.prefix)
        event = self._first
        while isinstance(event, Delta):
            if event.text:
                yield self._writer.chunk(event.text)
            event = await self._reading.next()
        yield self._writer.end(event)
        if self._delivery.include_usage:
            yield self._writer.usage(event)


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def _outcome(error: BaseException) -> str:
    match error:
        case RefusedError(refusal=refusal):
            return str(refusal.reason)
        case EngineFailedError():
            return "failed"
        case _:  # gone, or cancelled by the server because it has gone
            return "disconnected"
