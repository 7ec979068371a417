"""The OpenAI routes that make tokens: check the body, start a generation, answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from serving.http.callers import Asking
from serving.http.documents import ERRORS, MODEL, MODELS, streamed
from serving.http.idempotency import Answers, Key
from serving.http.operations import TextOperation, chat, completion, embeddings, request_of
from serving.http.respond import Delivery, Responder
from serving.http.schemas import ChatBody, CompletionBody, EmbeddingBody, GenerationBody
from serving.http.service import Service
from serving.policy import Tier

Timeout = Annotated[float | None, Header(alias="x-request-timeout-seconds", gt=0)]
Session = Annotated[str | None, Header(alias="x-session-id", max_length=256)]


def make_router(service: Service, responder: Responder) -> APIRouter:
    """`/v1/...` for one served model."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    answers = Answers(service.replica.clock)

    async def answer(
        body: GenerationBody, operation: TextOperation, request: Request, timeout: float | None
    ) -> Response:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        delivery = _delivery(service, operation.generation.tier, timeout, bool(body.stream), include_usage)
        return await responder.respond(operation, delivery, request)

    @router.get("/models", responses=MODELS)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(service)]}

    @router.get("/models/{name}", responses=MODEL)
    async def get_model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return _model_card(service)

    @router.post("/completions", responses=streamed("text_completion"))
    async def completions(
        body: CompletionBody, request: Request, caller: Asking,
        timeout: Timeout = None, session: Session = None, key: Key = None,
    ) -> Response:  # fmt: skip
        async def work() -> Response:
            operation = completion(service, body, request_of(caller, body, session))
            return await answer(body, operation, request, timeout)

        return await answers.once(caller, None if body.stream else key, request, work)

    @router.post("/chat/completions", responses=streamed("chat.completion"))
    async def chats(
        body: ChatBody, request: Request, caller: Asking,
        timeout: Timeout = None, session: Session = None, key: Key = None,
    ) -> Response:  # fmt: skip
        async def work() -> Response:
            return await answer(body, chat(service, body, request_of(caller, body, session)), request, timeout)

        return await answers.once(caller, None if body.stream else key, request, work)

    @router.post("/embeddings", responses=streamed("list", event_stream=False))
    async def embed(
        body: EmbeddingBody, request: Request, caller: Asking, timeout: Timeout = None, key: Key = None
    ) -> Response:
        async def work() -> Response:
            operation = embeddings(service, body, request_of(caller, body, None))
            delivery = _delivery(service, operation.generations[0].tier, timeout, False, False)
            return await responder.embed(operation, delivery, request)

        return await answers.once(caller, key, request, work)

    return router


def _delivery(service: Service, tier: Tier, timeout: float | None, stream: bool, include_usage: bool) -> Delivery:
    limit_s = service.limits[tier].timeout_s
    return Delivery(
        stream=stream,
        include_usage=include_usage,
        timeout_s=min(limit_s, timeout or limit_s),
        timeout_is_error=timeout is not None and timeout <= limit_s,
    )


def _model_card(service: Service) -> dict[str, Any]:
    model = service.model
    return {"id": model.id, "object": "model", "created": model.created_s, "owned_by": "tideline", "version": model.ref}
