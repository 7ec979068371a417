"""One request on its way through the replica: what is asked, and the events that answer it."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass

from serving.engine.protocol import Sampling
from serving.policy import Refused, Tier


class FinishReason(enum.StrEnum):
    """Why an answer ended; OpenAI's words where it has one."""

    STOP = "stop"
    LENGTH = "length"
    SUPERSEDED = "superseded"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A completion to make. `arrival_s` and `deadline_s` are on the replica's clock.

    With `embed` the prompt is read and its mean hidden state answered instead of text; `max_tokens` is then 1. Without
    `streamed` nobody looks at single tokens, so they may come several at a time.
    """

    id: str
    tier: Tier
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    session: str | None = None
    tenant: str = ""
    embed: bool = False
    streamed: bool = True
    arrival_s: float
    deadline_s: float

    @property
    def retry_key(self) -> str:
        """The same for the same request sent again: by it a refused request finds the place it was promised."""
        asked = (self.tenant, self.session, self.tier, self.prompt, self.max_tokens, self.embed)
        return f"{hash(asked):x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """More of the answer; `text` may be empty while a character or a stop string is undecided."""

    text: str
    num_tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end. `num_tokens` counts all tokens that were made; `embedding` is set for a generation with `embed`."""

    reason: FinishReason
    num_tokens: int
    embedding: tuple[float, ...] | None = None


class EngineFailedError(Exception):
    """The engine broke while it computed, or has been stopped; the request can be tried on another replica."""


class RefusedError(Exception):
    """The request was not admitted; `refusal` says why and when to come again."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal)
        self.refusal = refusal


Event = Delta | Finished | Refused | EngineFailedError


class Answer:
    """The events of one request, read on the event loop that asked; the engine thread writes them.

    `Delta`s come first, one `Finished` ends them; a refused or broken answer is an exception.
    """

    def __init__(self, generation: Generation, cancel: Callable[[str], None]) -> None:
        self.generation = generation
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._cancel = cancel
        self._ended = False

    def deliver(self, event: Event) -> None:
        """Called on the event loop only."""
        self._events.put_nowait(event)

    async def next(self) -> Delta | Finished:
        """The next event. Raises: RefusedError instead of the first, EngineFailedError instead of any."""
        assert not self._ended, "the answer has ended"
        event = await self._events.get()
        self._ended = not isinstance(event, Delta)
        match event:
            case Refused():
                raise RefusedError(event)
            case EngineFailedError():
                raise event
            case _:
                return event

    @property
    def is_over(self) -> bool:
        """Its reader has seen the end or has left: nothing need be made for it any more."""
        return self._ended

    def cancel(self) -> None:
        """Give the slot back, from any thread; nothing happens when the answer has ended."""
        if not self._ended:
            self._ended = True
            self._cancel(self.generation.id)
