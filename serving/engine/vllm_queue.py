"""Requests that vLLM computes: which goes first, whom a newer one replaces, and whether one more would be in time.

vLLM schedules its own steps, so this knows no slots and no steps: priorities, and the token rate that vLLM shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.engine.generation import Answer, Generation
from serving.policy import PolicyConfig, RefusalReason, Refused, Tier

_BATCH_BEHIND = 2**40  # milliseconds: behind every online deadline
_RATE_GAIN = 0.1


@dataclass(slots=True)
class LiveRequest:
    """One that vLLM has; `num_tokens` are made."""

    answer: Answer
    num_tokens: int = 0

    @property
    def generation(self) -> Generation:
        return self.answer.generation


class LiveRequests:
    """All that vLLM has, by id, and `tokens_per_s`, the rate seen lately: 0 while nothing is measured."""

    def __init__(self, config: PolicyConfig) -> None:
        self._config = config
        self.by_id: dict[str, LiveRequest] = {}
        self.tokens_per_s = 0.0

    def made(self, num_tokens: int, elapsed_s: float) -> None:
        """A step of vLLM has lasted so long."""
        if elapsed_s > 0:
            self.tokens_per_s += _RATE_GAIN * (num_tokens / elapsed_s - self.tokens_per_s)

    def refusal(self, generation: Generation, replaced: set[str], now_s: float) -> Refused | None:
        """Whoever has an earlier deadline goes first; vLLM's own rate says when this one's last token would come."""
        ahead = [each for each in self.by_id.values() if each.generation.id not in replaced]
        mine = [each for each in ahead if each.generation.tier is generation.tier]
        if len(mine) >= self._config.targets[generation.tier].max_waiting:
            return Refused(reason=RefusalReason.QUEUE_FULL, retry_after_s=self._time_s(mine[:1]))
        if not generation.tier.is_online or not ahead:
            return None
        earlier = [each for each in ahead if priority(each.generation) <= priority(generation)]
        finish_s = now_s + self._time_s(earlier) + self._seconds(generation.max_tokens)
        if finish_s <= generation.deadline_s:
            return None
        return Refused(reason=RefusalReason.WOULD_BE_LATE, retry_after_s=finish_s - generation.deadline_s)

    def replaced_by(self, generation: Generation) -> list[LiveRequest]:
        """Keystroke requests of the same session: the newest keystroke wins."""
        if not self._config.supersede or generation.session is None or generation.tier is not Tier.KEYSTROKE:
            return []
        return [
            live
            for live in self.by_id.values()
            if live.generation.tier is Tier.KEYSTROKE and live.generation.session == generation.session
        ]

    def _time_s(self, rows: list[LiveRequest]) -> float:
        return sum(self._seconds(live.generation.max_tokens - live.num_tokens) for live in rows)

    def _seconds(self, num_tokens: int) -> float:
        return num_tokens / self.tokens_per_s if self.tokens_per_s > 0 else 0.0


def priority(generation: Generation) -> int:
    """vLLM serves the smaller number first."""
    behind = 0 if generation.tier.is_online else _BATCH_BEHIND
    return behind + int(1000 * generation.deadline_s)
