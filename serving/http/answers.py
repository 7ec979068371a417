"""Answers in OpenAI's shapes: whole ones and the chunks of streamed ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.engine.generation import Finished, Generation
from serving.policy import SERVICE_TIER_OF


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShape:
    """Where completions and chats differ: names, and where the text is.

    `choice(text)` holds the text of a whole answer, `delta(text, is_first)` that of a chunk; `end()` is the last
    chunk's, which has a reason but no text.
    """

    id_prefix: str
    whole: str
    chunk: str
    choice: Callable[[str], dict[str, Any]]
    delta: Callable[[str, bool], dict[str, Any]]


COMPLETION = AnswerShape(
    id_prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    choice=lambda text: {"text": text},
    delta=lambda text, is_first: {"text": text},
)
CHAT = AnswerShape(
    id_prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    choice=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    delta=lambda text, is_first: {"delta": {"role": "assistant", "content": text} if is_first else {"content": text}},
)


class Writer:
    """Builds the documents of one answer; all carry the same id, time, model and tier."""

    def __init__(self, shape: AnswerShape, generation: Generation, model: str) -> None:
        self._shape = shape
        self._generation = generation
        self._head = {
            "id": shape.id_prefix + generation.id,
            "created": int(time.time()),
            "model": model,
            "service_tier": SERVICE_TIER_OF[generation.tier],
        }
        self._is_first = True

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        """The complete answer."""
        choice = self._choice(self._shape.choice(text), str(finished.reason))
        return {**self._head, "object": self._shape.whole, "choices": [choice], "usage": self._usage(finished)}

    def chunk(self, text: str) -> dict[str, Any]:
        """More text of a streamed answer."""
        part, self._is_first = self._shape.delta(text, self._is_first), False
        return {**self._head, "object": self._shape.chunk, "choices": [self._choice(part, None)]}

    def end(self, finished: Finished) -> dict[str, Any]:
        """The chunk that says why a streamed answer ended."""
        choice = self._choice(self._shape.delta("", self._is_first), str(finished.reason))
        return {**self._head, "object": self._shape.chunk, "choices": [choice]}

    def usage(self, finished: Finished) -> dict[str, Any]:
        """The chunk after the last one, for `stream_options: {include_usage: true}`."""
        return {**self._head, "object": self._shape.chunk, "choices": [], "usage": self._usage(finished)}

    def _choice(self, part: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, **part, "logprobs": None, "finish_reason": reason}

    def _usage(self, finished: Finished) -> dict[str, int]:
        prompt_tokens = len(self._generation.prompt)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": finished.num_tokens,
            "total_tokens": prompt_tokens + finished.num_tokens,
        }
