"""The OpenAI routes: check the body, start a generation, answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from serving.engine.generation import Generation
from serving.http.answers import CHAT, COMPLETION, AnswerShape, Writer
from serving.http.errors import ApiError
from serving.http.respond import Delivery, Responder
from serving.http.schemas import ChatBody, ChatMessage, CompletionBody, GenerationBody
from serving.http.service import Service

Timeout = Annotated[float | None, Header(alias="x-request-timeout-seconds", gt=0)]
Session = Annotated[str | None, Header(alias="x-session-id", max_length=256)]


def make_router(service: Service, responder: Responder) -> APIRouter:
    """`/v1/...` for one served model."""
    router = APIRouter(prefix="/v1")

    async def answer(
        body: GenerationBody,
        generation: Generation,
        shape: AnswerShape,
        request: Request,
        timeout: float | None,
        prefix: str,
    ) -> Response:
        limit_s = service.limits[generation.tier].timeout_s
        delivery = Delivery(
            stream=bool(body.stream),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            prefix=prefix,
            timeout_s=min(limit_s, timeout or limit_s),
            timeout_is_error=timeout is not None and timeout <= limit_s,
        )
        writer = Writer(shape, generation, service.model.id)
        return await responder.respond(generation, writer, delivery, request)

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(service)]}

    @router.get("/models/{name}")
    async def get_model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return _model_card(service)

    @router.post("/completions")
    async def completions(
        body: CompletionBody, request: Request, timeout: Timeout = None, session: Session = None
    ) -> Response:
        service.check_model(body.model)
        prompt, prefix = _prompt(service, body)
        generation = service.generation(
            body, prompt, max_tokens=body.max_tokens, session=body.prompt_cache_key or session
        )
        return await answer(body, generation, COMPLETION, request, timeout, prefix)

    @router.post("/chat/completions")
    async def chat(body: ChatBody, request: Request, timeout: Timeout = None, session: Session = None) -> Response:
        service.check_model(body.model)
        prompt = service.encode(chat_prompt(body.messages), "messages")
        allowed = body.max_completion_tokens or body.max_tokens
        generation = service.generation(body, prompt, max_tokens=allowed, session=body.prompt_cache_key or session)
        return await answer(body, generation, CHAT, request, timeout, "")

    return router


def chat_prompt(messages: list[ChatMessage]) -> str:
    """Turns as `role: text` lines, then the assistant's to be continued: all a byte model can be told."""
    turns = [f"{message.role}: {message.text}\n" for message in messages]
    return "".join(turns) + "assistant: "


def _prompt(service: Service, body: CompletionBody) -> tuple[tuple[int, ...], str]:
    """The prompt's tokens, and what goes before the answer. Raises: ApiError."""
    match body.prompt:
        case str(text) | [str(text)]:
            return service.encode(text, "prompt"), text if body.echo else ""
        case [int(), *_] as tokens if not body.echo:
            return service.check_tokens(tuple(tokens), "prompt"), ""  # type: ignore[arg-type]
        case [int(), *_]:
            raise ApiError(400, "echo: a prompt of tokens cannot be echoed", code="invalid_value", param="echo")
        case prompts:
            message = f"prompt: {len(prompts)} prompts in one request; this endpoint takes one"
            raise ApiError(400, message, code="invalid_value", param="prompt")


def _model_card(service: Service) -> dict[str, Any]:
    model = service.model
    return {"id": model.id, "object": "model", "created": model.created_s, "owned_by": "tideline", "version": model.ref}
