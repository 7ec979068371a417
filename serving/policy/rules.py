"""What every decision about one replica rests on, and what a row needs by it when it has the engine for itself."""

from __future__ import annotations

from dataclasses import dataclass

from serving.policy.rows import Row
from serving.policy.step_time import StepTimeModel
from serving.policy.tiers import PolicyConfig, Tier

# Faster tiers come first.
RANK = {Tier.KEYSTROKE: 0, Tier.INTERACTIVE: 1, Tier.BATCH: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What every decision about one replica rests on; `has_batch`: there are batch rows."""

    config: PolicyConfig
    model: StepTimeModel
    num_slots: int
    has_batch: bool = False

    @property
    def online_slots(self) -> int:
        """Slots that rows somebody waits for can count on: while there are batch rows, one of several is theirs."""
        return max(1, self.num_slots - 1) if self.earned_share else self.num_slots

    @property
    def earned_share(self) -> float:
        """The part of step time that batch rows are earning."""
        return self.config.batch_share if self.has_batch else 0.0


def alone_s(row: Row, rules: Rules) -> float:
    """Time a row needs when it has the engine for itself."""
    request = row.request
    prompt, tokens = request.prompt_tokens, request.max_tokens
    return needs_alone_s(prompt - row.prefilled, tokens - row.generated, prompt + tokens, rules)


def needs_alone_s(prompt: int, tokens: int, reach: int, rules: Rules) -> float:
    """Time alone to read so many prompt tokens and make so many others, of a row that comes to `reach` tokens."""
    predict_s, chunk = rules.model.predict_parts_s, rules.config.prefill_chunk_tokens
    decodes_s = (tokens - (1 if prompt else 0)) * predict_s(1, 0, reach)
    if not prompt:
        return decodes_s
    chunks, rest = divmod(prompt, chunk)
    return chunks * predict_s(0, chunk, 0) + (predict_s(0, rest, 0) if rest else 0.0) + decodes_s
