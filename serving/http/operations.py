"""What a body asks for, on one of the routes that make tokens; the same for a request and for a row of a batch."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.engine.generation import Finished, Generation
from serving.http.answers import CHAT, COMPLETION, AnswerShape, Writer
from serving.http.callers import Caller
from serving.http.errors import ApiError
from serving.http.schemas import ChatBody, ChatMessage, CompletionBody, EmbeddingBody, GenerationBody
from serving.http.service import Ask, Fields, Service

COMPLETIONS_URL, CHATS_URL, EMBEDDINGS_URL = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOperation:
    """One text to make. `prefix` goes before the answer (the prompt, with echo)."""

    generation: Generation
    writer: Writer
    prefix: str = ""

    def document(self, text: str, finished: Finished) -> dict[str, Any]:
        """The whole answer."""
        return self.writer.whole(self.prefix + text, finished)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingOperation:
    """Several vectors to make, one generation each."""

    generations: Sequence[Generation]
    model: str
    as_base64: bool = False
    tier: str = field(default="")

    def document(self, ends: Sequence[Finished]) -> dict[str, Any]:
        """The whole answer, in the order of the inputs."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._vector(end.embedding or ())}
            for index, end in enumerate(ends)
        ]
        tokens = sum(len(generation.prompt) for generation in self.generations)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage, "service_tier": self.tier}

    def _vector(self, values: Sequence[float]) -> list[float] | str:
        """Little-endian float32 when asked for base64, as OpenAI's client asks by default."""
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if self.as_base64 else list(values)


def completion(service: Service, body: CompletionBody, ask: Ask) -> TextOperation:
    """Raises: ApiError that names the field."""
    service.check_model(body.model)
    prompt, prefix = _prompt(service, body)
    generation = service.generation(body, prompt, ask, max_tokens=body.max_tokens, named=Fields())
    return _text(service, generation, COMPLETION, prefix)


def chat(service: Service, body: ChatBody, ask: Ask) -> TextOperation:
    """Raises: ApiError that names the field."""
    service.check_model(body.model)
    prompt = service.encode(chat_prompt(body.messages), "messages")
    named = Fields(
        prompt="messages", max_tokens="max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    )
    most = body.max_completion_tokens or body.max_tokens
    return _text(service, service.generation(body, prompt, ask, max_tokens=most, named=named), CHAT, "")


def embeddings(service: Service, body: EmbeddingBody, ask: Ask) -> EmbeddingOperation:
    """Raises: ApiError that names the field."""
    service.check_model(body.model)
    if body.dimensions is not None:
        raise ApiError(400, "dimensions: this model's embeddings have one size; leave it out", code="invalid_value",
                       param="dimensions")  # fmt: skip
    generations = []
    for text in body.texts:
        tokens = service.encode(text, "input") if isinstance(text, str) else service.check_tokens(tuple(text), "input")
        generations.append(service.embedding(tokens, ask))
    return EmbeddingOperation(
        generations=generations, model=service.model.id, as_base64=body.encoding_format == "base64",
        tier=service.tier_name(ask),
    )  # fmt: skip


def chat_prompt(messages: list[ChatMessage]) -> str:
    """Turns as `role: text` lines, then the assistant's to be continued: all a byte model can be told."""
    turns = [f"{message.role}: {message.text}\n" for message in messages]
    return "".join(turns) + "assistant: "


def request_of(caller: Caller, body: GenerationBody | EmbeddingBody, session: str | None) -> Ask:
    """What an online request asks of the service."""
    key = body.prompt_cache_key if isinstance(body, GenerationBody) else None
    return Ask(caller=caller, service_tier=body.service_tier, session=caller.session(key or session))


def _text(service: Service, generation: Generation, shape: AnswerShape, prefix: str) -> TextOperation:
    return TextOperation(generation=generation, writer=Writer(shape, generation, service.model.id), prefix=prefix)


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
            message = (
                f"prompt: {len(prompts)} prompts in one request; this endpoint takes one. "
                "Send each by itself, or all as rows of a batch"
            )
            raise ApiError(400, message, code="invalid_value", param="prompt")
