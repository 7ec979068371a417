"""Bodies of requests that make tokens, as OpenAI documents them.

A known option that has no effect here is an error, never silence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

MAX_INPUTS = 256
_MAX_SEED = 2**63
ServiceTier = Literal["auto", "default", "priority", "flex"]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# "4" is no number and "yes" no truth value: a client that mixes types up would see wrong answers instead of an error.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]


def _wrong(field: str, message: str) -> PydanticCustomError:
    """An error of the whole body that is one field's fault. `serving.http.errors.field_of` reads the name."""
    return PydanticCustomError("option", "{message}", {"field": field, "message": message})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _prompt_kind(value: Any) -> Any:
    """Checked here and not by the union, whose errors would name its members and not the field."""
    items = value if isinstance(value, list) else [value]
    if isinstance(value, str) or all(isinstance(item, str) for item in items):
        return value
    if isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return value
    raise ValueError("must be text, a list of one text, or a list of tokens")


def _input_kind(value: Any) -> Any:
    """One text or list of tokens, or a list of one of both kinds; not too many."""
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        for item in value:
            if not item or isinstance(_prompt_kind(item)[0], str):
                raise ValueError("must be text, a list of texts, a list of tokens, or a list of lists of tokens")
    else:
        _prompt_kind(value)
    if value == []:
        raise ValueError("there must be something to embed")
    if isinstance(value, list) and not isinstance(value[0], int) and len(value) > MAX_INPUTS:
        raise ValueError(f"{len(value)} inputs in one request; at most {MAX_INPUTS} are taken")
    return value


def _content_kind(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be text or a list of text parts")
    for index, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text":
            raise ValueError(f"part {index} is {str(kind)[:64]!r}; only text is read here")
        if not isinstance(part.get("text"), str) or len(part) > 2:
            raise ValueError(f"part {index} must have a type and a text, and nothing else")
    return value


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: Flag = False


class GenerationBody(BaseModel):
    """What completions and chats have in common."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    max_tokens: Annotated[Whole | None, Field(ge=1)] = None
    temperature: Annotated[Number | None, Field(ge=0, le=2)] = None
    top_p: Annotated[Number | None, Field(gt=0, le=1)] = None
    seed: Annotated[Whole | None, Field(ge=-_MAX_SEED, lt=_MAX_SEED)] = None
    stop: Annotated[list[StopText] | None, Field(max_length=4), BeforeValidator(_as_list)] = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    service_tier: ServiceTier | None = None
    prompt_cache_key: Annotated[str | None, StringConstraints(max_length=256)] = None
    user: str | None = None
    # Known to OpenAI's clients, without effect here: accepted at the value that changes nothing.
    n: Whole | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None

    @model_validator(mode="after")
    def _only_what_has_an_effect(self) -> Self:
        if self.n not in (None, 1):
            raise _wrong("n", f"{self.n} answers in one request; this endpoint makes one, so it must be 1")
        for name in ("frequency_penalty", "presence_penalty", "logit_bias", *self.unsupported()):
            if getattr(self, name):
                raise _wrong(name, "is not supported by this endpoint; leave it out")
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options", "has an effect only with stream: true")
        return self

    def unsupported(self) -> tuple[str, ...]:
        """Further options that must not be set."""
        return ()


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Annotated[str | list[str] | list[int], BeforeValidator(_prompt_kind)]
    echo: Flag | None = None
    best_of: Whole | None = None
    logprobs: Whole | None = None
    suffix: str | None = None

    def unsupported(self) -> tuple[str, ...]:
        return ("suffix",)

    @model_validator(mode="after")
    def _completion_options(self) -> Self:
        if self.best_of not in (None, 1):
            raise _wrong("best_of", f"{self.best_of} answers for one request; this endpoint makes one, so it must be 1")
        if self.logprobs is not None:
            raise _wrong("logprobs", "is not supported by this endpoint; leave it out")
        return self


class TextPart(BaseModel):
    """A piece of a chat message; text is the only kind."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | list[TextPart], BeforeValidator(_content_kind)]
    name: str | None = None
    # What an answer has beside its text, so that it can be sent back as it came; nothing else is known of them here.
    refusal: None = None
    annotations: Annotated[list[Any] | None, Field(max_length=0)] = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any] | None, Field(max_length=0)] = None

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole | None, Field(ge=1)] = None
    logprobs: Flag | None = None
    top_logprobs: Whole | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    def unsupported(self) -> tuple[str, ...]:
        return ("logprobs", "top_logprobs", "tools")

    @model_validator(mode="after")
    def _chat_options(self) -> Self:
        if self.response_format not in (None, {"type": "text"}):
            raise _wrong("response_format", "is not supported by this endpoint; leave it out")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _wrong("max_completion_tokens", "is the same option as max_tokens; give one of them")
        return self


class EmbeddingBody(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: Annotated[str | list[str] | list[int] | list[list[int]], BeforeValidator(_input_kind)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Whole | None, Field(ge=1)] = None
    service_tier: ServiceTier | None = None
    user: str | None = None

    @property
    def texts(self) -> list[str | list[int]]:
        """The inputs, each text or tokens."""
        match self.input:
            case str(text):
                return [text]
            case [int(), *_] as tokens:
                return [tokens]  # type: ignore[list-item]
            case inputs:
                return list(inputs)  # type: ignore[arg-type]
