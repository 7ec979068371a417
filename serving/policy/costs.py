"""Rules and rows as plain numbers, looked up once for everything that one decision plays forward."""

from __future__ import annotations

import math

from serving.policy.order import allowance_s, nearly_s, needs_promotion
from serving.policy.rows import Row
from serving.policy.rules import RANK, Rules, needs_alone_s
from serving.policy.tiers import Tier

_TIERS = sorted(RANK, key=lambda tier: RANK[tier])


class Costs:
    """What steps and rows take by the model, and what the configuration allows.

    `margin_s`: so much before its deadline a row must be done by prediction; None = what recent steps took too long.
    """

    def __init__(self, rules: Rules, *, margin_s: float | None = None) -> None:
        predict_s = rules.model.predict_parts_s
        self.rules = rules
        self.tail_s = rules.model.tail_s
        self.margin_s = self.tail_s if margin_s is None else margin_s
        self.chunk = rules.config.prefill_chunk_tokens
        self.min_chunk = rules.config.min_chunk_tokens
        self.online_slots = rules.online_slots
        self.online_share = 1 - rules.config.batch_share
        self.budget_share = 1 - rules.earned_share
        self.decode_s = tuple(predict_s(count, 0, 0) for count in range(rules.num_slots + 1))
        self.prefill_s = predict_s(0, 1, 0) - self.decode_s[0]
        self.context_s = predict_s(0, 0, 1) - self.decode_s[0]
        self._alone_s: dict[tuple[int, int, int], float] = {}
        self._caps_s: dict[int, tuple[float, ...]] = {}

    def step_s(self, decodes: int, prefill: int, context: int) -> float:
        """What the model predicts for such a step."""
        return self.decode_s[decodes] + self.prefill_s * prefill + self.context_s * context

    def alone_s(self, prompt: int, tokens: int, reach: int) -> float:
        """As `rules.needs_alone_s`; the same progress is asked about again and again."""
        key = (prompt, tokens, reach)
        found_s = self._alone_s.get(key)
        if found_s is None:
            found_s = self._alone_s[key] = needs_alone_s(prompt, tokens, reach, self.rules)
        return found_s

    def row_alone_s(self, row: Row) -> float:
        """As `rules.alone_s`."""
        request = row.request
        prompt, tokens = request.prompt_tokens, request.max_tokens
        return self.alone_s(prompt - row.prefilled, tokens - row.generated, prompt + tokens)

    def least_chunk(self, prompt: int) -> int:
        """The smallest part of so many prompt tokens that is ever put into a step, as `fill.Packing` tries them."""
        tokens = min(self.chunk, prompt)
        while tokens // 2 >= self.min_chunk:
            tokens //= 2
        return tokens

    def caps_s(self, present: int) -> tuple[float, ...]:
        """Per rank, the longest step that live rows of faster tiers allow; `present` has a bit for each live rank."""
        found = self._caps_s.get(present)
        if found is None:
            own = [self.rules.config.step_cap_s(tier) if present >> RANK[tier] & 1 else math.inf for tier in _TIERS]
            found = self._caps_s[present] = tuple(min(own[:rank], default=math.inf) for rank in range(len(Tier)))
        return found


class Run:
    """One row's progress. `tokens` are still to be made, `prefill` prompt tokens still to be read, `least` of them in
    the smallest chunk that is tried. While `now_s + alone_s` is no more than `nearly_s` its own deadline can be met, at
    least nearly."""

    __slots__ = ("_allowed_s", "_costs", "alone_s", "bit", "context", "deadline_s", "decode_s", "least", "nearly_s",
                 "prefill", "rank", "request", "started", "steps", "tokens")  # fmt: skip

    def __init__(self, row: Row, costs: Costs) -> None:
        request = row.request
        self._costs = costs
        self.request = request
        self.rank = RANK[request.tier]
        self.bit = 1 << self.rank
        self.decode_s = costs.step_s(1, 0, request.prompt_tokens + request.max_tokens)
        self.deadline_s = request.deadline_s
        self._allowed_s = allowance_s(request)
        self.nearly_s = request.deadline_s + nearly_s(self._allowed_s)
        self.prefill = request.prompt_tokens - row.prefilled
        self.tokens = request.max_tokens - row.generated
        self.context = row.prefilled + row.generated
        self.steps = row.remaining_steps(costs.chunk)
        self.alone_s = costs.row_alone_s(row)
        self.least = costs.least_chunk(self.prefill)
        self.started = row.slot is not None or row.prefilled > 0

    def copy(self) -> Run:
        """The same progress, to be played on without this one."""
        twin = object.__new__(Run)
        twin._allowed_s, twin._costs, twin.request = self._allowed_s, self._costs, self.request
        twin.rank, twin.bit, twin.decode_s = self.rank, self.bit, self.decode_s
        twin.deadline_s, twin.nearly_s, twin.alone_s = self.deadline_s, self.nearly_s, self.alone_s
        twin.prefill, twin.tokens, twin.context = self.prefill, self.tokens, self.context
        twin.steps, twin.least, twin.started = self.steps, self.least, self.started
        return twin

    def is_waited_for(self, now_s: float) -> bool:
        """Somebody waits for it, or it is a batch row near its deadline."""
        if self.request.tier.is_online:
            return True
        return needs_promotion(self.request, self.alone_s, self._costs.rules, now_s)

    def due_s(self, now_s: float) -> float:
        """The deadline to work towards, as `order.working_towards_s`."""
        lacks_s = now_s + self.alone_s - self.deadline_s
        if now_s + self.alone_s <= self.nearly_s:
            return self.deadline_s
        return self.deadline_s + math.ceil(lacks_s / self._allowed_s) * self._allowed_s

    def read(self, tokens: int) -> None:
        """Take over a prompt chunk; the last one makes a token."""
        costs = self._costs
        self.started = True
        self.prefill -= tokens
        self.context += tokens
        if not self.prefill:
            self.tokens -= 1
            self.context += 1
        chunks = math.ceil(self.prefill / costs.chunk)
        self.steps = chunks + self.tokens - (1 if chunks else 0)
        reach = self.request.prompt_tokens + self.request.max_tokens
        self.alone_s = costs.alone_s(self.prefill, self.tokens, reach)
        self.least = costs.least_chunk(self.prefill)
