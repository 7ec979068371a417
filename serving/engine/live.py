"""A request that is being computed: its text and tokens so far, and what of them has gone out."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.engine.generation import Answer, Delta, Generation
from serving.engine.text import AnswerText

# Each event wakes the event loop, which shares a core and Python's lock with the engine: tokens of an answer that is
# sent whole go there so many at a time. One that runs out of time lacks at most so many.
_TOGETHER = 16


@dataclass(slots=True)
class Live:
    """One answer in the making. `version` is the model's that makes it."""

    answer: Answer
    text: AnswerText
    version: str
    tokens: list[int] = field(default_factory=list)
    hidden: list[float] = field(default_factory=list)
    unsent: str = ""
    num_unsent: int = 0

    @property
    def may_wait(self) -> bool:
        """Whether the newest token need not go out by itself. The first one always does: its time is measured."""
        return not self.generation.streamed and len(self.tokens) > 1 and self.num_unsent < _TOGETHER

    def take(self) -> Delta:
        """What has not gone out yet."""
        delta = Delta(text=self.unsent, num_tokens=self.num_unsent)
        self.unsent, self.num_unsent = "", 0
        return delta

    def add_hidden(self, hidden: list[float]) -> None:
        """Sum hidden states over the chunks of a prompt."""
        self.hidden = [a + b for a, b in zip(self.hidden, hidden, strict=True)] if self.hidden else hidden

    @property
    def generation(self) -> Generation:
        return self.answer.generation
