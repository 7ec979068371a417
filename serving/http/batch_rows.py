"""Rows of batches: checked when their file is uploaded, computed when leased. Their bodies are the routes' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from serving.batch.records import LeasedRow, RowResult
from serving.batch.runner import RowNotDoneError
from serving.batch.upload import LineError, parse_line
from serving.engine.generation import EngineFailedError, Finished, FinishReason, Generation, RefusedError
from serving.http.callers import ANYONE, Caller
from serving.http.errors import ApiError, field_of, sentence
from serving.http.operations import (
    CHATS_URL,
    COMPLETIONS_URL,
    EMBEDDINGS_URL,
    EmbeddingOperation,
    TextOperation,
    chat,
    completion,
    embeddings,
)
from serving.http.respond import Responder
from serving.http.schemas import ChatBody, CompletionBody, EmbeddingBody, GenerationBody
from serving.http.service import Ask, Service

BODIES: Mapping[str, type[BaseModel]] = {
    COMPLETIONS_URL: CompletionBody,
    CHATS_URL: ChatBody,
    EMBEDDINGS_URL: EmbeddingBody,
}
# A replica whose queue is full looks again after this at the latest.
_MAX_WAIT_S = 5.0


class BatchRows:
    """`check` for uploads, `compute` for the runner."""

    def __init__(self, service: Service, responder: Responder) -> None:
        self._service = service
        self._responder = responder

    def check(self, url: str, body: Mapping[str, Any]) -> int:
        """Tokens of prompt and answer, at most. Raises: LineError that names the field."""
        if url not in BODIES:
            raise LineError("invalid_url", f"url is {url!r}; it must be one of {', '.join(BODIES)}", param="url")
        try:
            generations = _generations(self._operation(url, body, _ask(ANYONE, expires_s=0.0)))
        except ApiError as error:
            raise LineError(error.code or "invalid_value", error.message, param=_in_body(error.param)) from None
        return sum(len(generation.prompt) + generation.max_tokens for generation in generations)

    async def compute(self, row: LeasedRow) -> RowResult:
        """The row's answer; a body that is no longer right (another model is served now) is a 4xx.

        Raises: RowNotDoneError when the engine computes no more.
        """
        due_s = self._service.replica.clock() + row.expires_s - time.time()
        try:
            ask = _ask(Caller(tenant=row.tenant), expires_s=due_s)
            operation = self._operation(row.url, parse_line(row.line)["body"], ask)
            ends = await asyncio.gather(*(self._finish(each, row.expires_s) for each in _generations(operation)))
        except ApiError as error:
            return RowResult(status_code=error.status, body=error.body)
        except EngineFailedError:
            raise RowNotDoneError from None
        document = _document(operation, ends)
        usage = document["usage"]
        made = usage.get("completion_tokens", 0)
        return RowResult(
            status_code=200, body=document, prompt_tokens=usage["prompt_tokens"], completion_tokens=made
        )  # fmt: skip

    async def _finish(self, generation: Generation, expires_s: float) -> tuple[str, Finished]:
        """Raises: ApiError 408 at the end of the window, EngineFailedError."""
        while True:
            try:
                text, end = await self._responder.read(generation, timeout_s=max(1.0, expires_s - time.time()))
            except RefusedError as refused:
                await asyncio.sleep(min(_MAX_WAIT_S, max(0.05, refused.refusal.retry_after_s)))
                continue
            if end.reason is FinishReason.TIMEOUT:
                raise ApiError(408, "the batch's window ended while the request ran", code="timeout")
            return text, end

    def _operation(self, url: str, body: Mapping[str, Any], ask: Ask) -> TextOperation | EmbeddingOperation:
        try:
            parsed = BODIES[url].model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            param = field_of({**first, "loc": ("body", *first["loc"])})
            raise ApiError(400, f"{param or 'body'}: {sentence(first)}", param=param, code="invalid_value") from None
        _check_options(parsed)
        match parsed:
            case CompletionBody():
                return completion(self._service, parsed, ask)
            case ChatBody():
                return chat(self._service, parsed, ask)
            case EmbeddingBody():
                return embeddings(self._service, parsed, ask)
        raise AssertionError(url)


def _check_options(body: BaseModel) -> None:
    if isinstance(body, GenerationBody) and body.stream:
        raise ApiError(400, "stream: a row of a batch is not streamed; leave it out", code="invalid_value",
                       param="stream")  # fmt: skip
    tier = getattr(body, "service_tier", None)
    if tier not in (None, "auto", "flex"):
        raise ApiError(400, f"service_tier: a row of a batch is answered as 'flex', not {tier!r}", code="invalid_value",
                       param="service_tier")  # fmt: skip


def _ask(caller: Caller, *, expires_s: float) -> Ask:
    return Ask(caller=caller, service_tier="flex", expires_s=expires_s)


def _generations(operation: TextOperation | EmbeddingOperation) -> Sequence[Generation]:
    return operation.generations if isinstance(operation, EmbeddingOperation) else (operation.generation,)


def _document(
    operation: TextOperation | EmbeddingOperation, ends: Sequence[tuple[str, Finished]]
) -> dict[str, Any]:  # fmt: skip
    if isinstance(operation, EmbeddingOperation):
        return operation.document([end for _, end in ends])
    return operation.document(*ends[0])


def _in_body(param: str | None) -> str:
    return f"body.{param}" if param else "body"
