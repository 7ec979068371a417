"""Generations to HTTP answers, whole or streamed, with their metrics and their tenant's limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serving.engine.generation import Answer, Delta, EngineFailedError, Finished, FinishReason, Generation, RefusedError
from serving.engine.replica import Replica
from serving.http.errors import NO_RETRY, ApiError, from_engine, from_limit
from serving.http.limits import Limited, Limiter
from serving.http.listening import ClientGoneError, events, while_listening
from serving.http.metrics import ServingMetrics
from serving.http.operations import EmbeddingOperation, TextOperation


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How an answer leaves.

    `timeout_s` ends the answer with what it has; with `timeout_is_error` an answer that is not streamed becomes a 408
    instead, because the client said how long it waits.
    """

    stream: bool = False
    include_usage: bool = False
    timeout_s: float
    timeout_is_error: bool = False


class Responder:
    """Starts generations on the replica and turns their events into responses."""

    def __init__(self, replica: Replica, metrics: ServingMetrics, limiter: Limiter) -> None:
        self._replica = replica
        self._metrics = metrics
        self._limiter = limiter

    async def respond(self, operation: TextOperation, delivery: Delivery, request: Request) -> Response:
        """Raises: RefusedError, EngineFailedError, ClientGoneError, ApiError 408 or 429; the slot is free by then."""
        held = self._hold([operation.generation])
        with held.until_done():
            reading = self._reading(operation.generation, delivery.timeout_s)
            if not delivery.stream:
                with reading.accounted():
                    text, finished = await while_listening(reading.rest(), request.receive)
                held.used += finished.num_tokens
                _check_time(finished, delivery)
                return JSONResponse(operation.document(text, finished))
            with reading.accounted():
                # Before the headers, so that a refusal is a status and not a broken stream.
                first = await while_listening(reading.next(), request.receive)
            held.goes_on = True
            return _EventStream(reading, first, operation, delivery, held)

    async def embed(self, operation: EmbeddingOperation, delivery: Delivery, request: Request) -> Response:
        """As `respond`, for all vectors of a request together; one that cannot be had takes the others along."""
        held = self._hold(operation.generations)
        with held.until_done():
            parts = [self.read(each, timeout_s=delivery.timeout_s) for each in operation.generations]
            ends = [end for _, end in await while_listening(_together(parts), request.receive)]
            for end in ends:
                if end.embedding is None:
                    raise _timed_out()
            return JSONResponse(operation.document(ends))

    async def read(self, generation: Generation, *, timeout_s: float) -> tuple[str, Finished]:
        """A whole answer, without limits. Raises: RefusedError, EngineFailedError."""
        reading = self._reading(generation, timeout_s)
        with reading.accounted():
            return await reading.rest()

    def _reading(self, generation: Generation, timeout_s: float) -> _Reading:
        return _Reading(self._replica, self._metrics, generation, timeout_s)

    def _hold(self, generations: Sequence[Generation]) -> _Held:
        """Raises: ApiError 429 above the tenant's limits."""
        return _Held(self._limiter, self._metrics, self._replica, generations)


class _Held:
    """A tenant's allowance for one request, from its admission to the last token."""

    def __init__(
        self, limiter: Limiter, metrics: ServingMetrics, replica: Replica, generations: Sequence[Generation]
    ) -> None:  # fmt: skip
        tenant = generations[0].tenant
        self.used = sum(len(each.prompt) for each in generations)
        self.goes_on = False
        self._limiter = limiter
        self._replica = replica
        most = sum(len(each.prompt) + (0 if each.embed else each.max_tokens) for each in generations)
        verdict = limiter.take(tenant, most, now_s=replica.clock())
        if isinstance(verdict, Limited):
            metrics.limited(tenant, verdict.limit)
            raise from_limit(verdict)
        self._hold = verdict

    @contextlib.contextmanager
    def until_done(self) -> Iterator[None]:
        """Release at the end of the block, unless the answer is still being streamed."""
        try:
            yield
        finally:
            if not self.goes_on:
                self.release()

    def release(self) -> None:
        self._limiter.release(self._hold, used_tokens=self.used, now_s=self._replica.clock())


class _Reading:
    """One answer being read, and its entry in the metrics."""

    def __init__(self, replica: Replica, metrics: ServingMetrics, generation: Generation, timeout_s: float) -> None:
        self._replica = replica
        self._metrics = metrics
        self._generation = generation
        self._metrics.arrived(generation)
        self._answer: Answer = replica.submit(generation)
        self._events = events(self._answer, timeout_s=timeout_s)
        self._ttft_s: float | None = None
        self.num_tokens = 0

    async def next(self) -> Delta | Finished:
        """The next event."""
        event = await anext(self._events)
        if self._ttft_s is None:
            self._ttft_s = self._elapsed_s
            self._metrics.first_token(self._generation, self._ttft_s)
        self.num_tokens = event.num_tokens if isinstance(event, Finished) else self.num_tokens + event.num_tokens
        if isinstance(event, Finished):
            self._metrics.answered(self._generation, event, ttft_s=self._ttft_s, elapsed_s=self._elapsed_s)
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
            match error:
                case RefusedError(refusal=refusal):
                    self._metrics.refused(self._generation, refusal.reason)
                case EngineFailedError():
                    self._metrics.failed(self._generation)
                case _:  # gone, or cancelled by the server because it has gone
                    self._metrics.left(self._generation, self.num_tokens)
            raise

    @property
    def _elapsed_s(self) -> float:
        return self._replica.clock() - self._generation.arrival_s


class _EventStream(Response):
    """Server-sent events while the client listens. Once headers are out, an error can only be an event."""

    def __init__(
        self, reading: _Reading, first: Delta | Finished, operation: TextOperation, delivery: Delivery, held: _Held
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._reading = reading
        self._first = first
        self._operation = operation
        self._delivery = delivery
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientGoneError), self._reading.accounted():
                await while_listening(self._send(send), receive)
        finally:
            self._held.used += self._reading.num_tokens
            self._held.release()

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
        writer = self._operation.writer
        if self._operation.prefix:
            yield writer.chunk(self._operation.prefix)
        event = self._first
        while isinstance(event, Delta):
            if event.text:
                yield writer.chunk(event.text)
            event = await self._reading.next()
        yield writer.end(event)
        if self._delivery.include_usage:
            yield writer.usage(event)


async def _together(parts: Sequence[Coroutine[Any, Any, tuple[str, Finished]]]) -> list[tuple[str, Finished]]:
    """All of them; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_time(finished: Finished, delivery: Delivery) -> None:
    if finished.reason is FinishReason.TIMEOUT and delivery.timeout_is_error:
        raise _timed_out()


def _timed_out() -> ApiError:
    return ApiError(
        408,
        "the request ran out of the time it allowed; allow more, or ask for fewer tokens",
        code="timeout",
        headers=NO_RETRY,
    )


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()
