"""When rows will finish: the scheduler's own step filling played forward, on numbers instead of rows.

Counts online rows and what the batch share takes from them; batch rows that merely soak up idle time give way and so
delay nobody. Admission asks for a forecast at each arrival, between two steps of the engine, so its cost is part of
everybody's wait: stretches of equal steps are taken at once, and whoever asks says how far it matters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from serving.policy.fill import RANK, Rules, alone_s, in_order, order_online, working_towards_s
from serving.policy.rows import Row
from serving.policy.step_time import StepShape
from serving.policy.tiers import Tier


class Effort:
    """How many more rows may be looked at. Who shares one shares a bound on the time that all take together."""

    def __init__(self, num_looks: int) -> None:
        self.left = num_looks


class Forecast:
    """The future of these rows if nothing else arrives; `coming` join at their arrival.

    `stretch` plays on until something changes; `now_s` is how far it has come, `finish_s` holds who is done by then.
    It is over when everybody is, or the effort is spent. The given rows stay as they are.
    """

    def __init__(
        self, rows: Sequence[Row], rules: Rules, *, start_s: float, coming: Sequence[Row] = (), effort: Effort
    ) -> None:
        self.now_s = start_s
        self.finish_s: dict[str, float] = {}
        self._effort = effort
        self._rules = rules
        self._costs = _Costs(rules)
        ordered = order_online([row.copy() for row in rows], rules, now_s=start_s)
        self._live = [_Run(row, self._costs) for row in ordered]
        self._later = sorted((row.copy() for row in coming), key=lambda row: (-row.request.arrival_s, row.request.id))

    @property
    def is_over(self) -> bool:
        """Everybody is done, or nothing more can be said."""
        return not (self._live or self._later) or self._effort.left <= 0

    @property
    def live(self) -> list[Row]:
        """Copies of who is here and not done, as of now."""
        return [run.as_row() for run in self._live]

    @property
    def later(self) -> list[Row]:
        """Copies of who is still to come."""
        return [row.copy() for row in reversed(self._later)]

    def play(self, until_s: float = math.inf) -> None:
        """Everything that ends by then; who does not finish has no entry."""
        while not self.is_over and self.now_s <= until_s:
            self.stretch()

    def stretch(self) -> bool:
        """The next steps that do the same work; whether somebody has finished."""
        self._effort.left -= len(self._live) + 1
        if not self._live:
            self.now_s = max(self.now_s, self._later[-1].request.arrival_s)
        self._join()
        step = _Step(self._live[: self._rules.online_slots], self._live, self._costs, now_s=self.now_s)
        steps, mean_s = self._equal_steps(step)
        self.now_s += steps * mean_s
        for run, tokens in step.work:
            run.advance(tokens, steps)
        done = [run for run in self._live if not run.tokens]
        if done:
            self.finish_s.update((run.id, self.now_s) for run in done)
            self._live = [run for run in self._live if run.tokens]
        return bool(done)

    def _join(self) -> None:
        arrived = []
        while self._later and self._later[-1].request.arrival_s <= self.now_s:
            arrived.append(self._later.pop())
        if arrived:
            live = [*self._live, *(_Run(row, self._costs) for row in arrived)]
            self._live = in_order([(run.due_s(self.now_s), run) for run in live])

    def _equal_steps(self, step: _Step) -> tuple[int, float]:
        """How many steps from now hold exactly this work, and how long one takes."""
        costs = self._costs
        steps = step.equal_steps()
        # Each row's cache grows by a token a step; the time is linear in it, so the mean step stands for all of them.
        grown_tokens = math.ceil((steps - 1) * step.decodes / 2)
        mean_s = costs.step_s(step.decodes, step.prefill, step.context + grown_tokens) / costs.online_share
        if self._later and mean_s > 0:  # not beyond the next arrival
            to_next_s = self._later[-1].request.arrival_s - self.now_s
            steps = max(1, min(steps, math.ceil(to_next_s / mean_s)))
        return steps, mean_s


def drain_s(rows: Sequence[Row], rules: Rules) -> float:
    """Time to finish all of these rows with every slot in use."""
    steps = sum(row.remaining_steps(rules.config.prefill_chunk_tokens) for row in rows)
    width = max(1, min(rules.num_slots, len(rows)))
    return steps / width * rules.model.predict_s(StepShape(width, 0, 0))


class _Costs:
    """The rules as plain numbers, looked up once for a whole forecast."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.tail_s = rules.model.tail_s
        self.chunk = rules.config.prefill_chunk_tokens
        self.min_chunk = rules.config.min_chunk_tokens
        self.online_share = 1 - rules.config.batch_share
        self.budget_share = 1 - rules.earned_share
        self.cap_s = {tier: rules.config.step_cap_s(tier) for tier in Tier}
        self._decode_s = [rules.model.predict_s(StepShape(count)) for count in range(rules.num_slots + 1)]
        self._prefill_s = rules.model.predict_s(StepShape(0, 1)) - self._decode_s[0]
        self._context_s = rules.model.predict_s(StepShape(0, 0, 1)) - self._decode_s[0]

    def step_s(self, decodes: int, prefill: int, context: int) -> float:
        """What the model predicts for such a step."""
        return self._decode_s[decodes] + self._prefill_s * prefill + self._context_s * context


class _Run:
    """One row's progress. `tokens` are still to be made, `prefill` prompt tokens still to be read."""

    __slots__ = ("_costs", "_decode_s", "_row", "alone_s", "context", "id", "prefill", "request", "steps",
                 "tier", "tokens")  # fmt: skip

    def __init__(self, row: Row, costs: _Costs) -> None:
        request = row.request
        self._row = row
        self._costs = costs
        self.request = request
        self._decode_s = costs.step_s(1, 0, request.prompt_tokens + request.max_tokens)
        self.id = request.id
        self.tier = request.tier
        self.prefill = request.prompt_tokens - row.prefilled
        self.tokens = request.max_tokens - row.generated
        self.context = row.context_tokens
        self.steps = row.remaining_steps(costs.chunk)
        self.alone_s = alone_s(row, costs.rules)

    def due_s(self, now_s: float) -> float:
        """The deadline to work towards, as `fill.due_s`."""
        return working_towards_s(self.request, self.alone_s, now_s=now_s)

    def advance(self, tokens: int, steps: int) -> None:
        """Take over so many equal steps: of a prompt chunk, or (0 tokens) of one decoded token each."""
        self.prefill -= tokens
        self.tokens -= 0 if self.prefill else steps
        self.context += (tokens + (not self.prefill)) if tokens else steps
        if tokens:
            row = self.as_row()
            self.steps, self.alone_s = row.remaining_steps(self._costs.chunk), alone_s(row, self._costs.rules)
        else:
            self.steps, self.alone_s = self.tokens, self.tokens * self._decode_s

    def as_row(self) -> Row:
        """The row as it is by now."""
        request = self.request
        return dataclasses.replace(
            self._row, prefilled=request.prompt_tokens - self.prefill, generated=request.max_tokens - self.tokens
        )


class _Step:
    """What `fill.fill_online` puts into the next step, of rows that have slots (`seated`) among all that live."""

    def __init__(self, seated: Sequence[_Run], live: Sequence[_Run], costs: _Costs, *, now_s: float) -> None:
        self.work: list[tuple[_Run, int]] = []
        self.decodes = self.prefill = self.context = 0
        self._costs = costs
        self._now_s = now_s
        self._at_rest = list(live[len(seated) :])
        self._may_change = False
        self._fill(seated, self._limits(live))

    def equal_steps(self) -> int:
        """How many steps from now hold exactly this work, where that is certain; else 1."""
        if self.prefill or self._may_change:
            return 1
        steps = min(run.tokens for run, _ in self.work)
        step_s = self._costs.step_s(self.decodes, 0, self.context)
        if step_s <= 0:  # nothing is known of this machine yet
            return steps
        lasts_s = step_s / self._costs.online_share
        for run in self._at_rest:  # one that nears its deadline makes steps shorter
            needs_s = max(run.alone_s, run.steps * step_s / self._costs.budget_share)
            spare_s = run.due_s(self._now_s) - self._now_s - needs_s - self._costs.tail_s
            steps = max(1, min(steps, math.floor(spare_s / lasts_s)))
        return steps

    def _limits(self, live: Sequence[_Run]) -> dict[Tier, tuple[float, float]]:
        """Per tier, the longest step that caps allow, and that deadlines allow as well."""
        costs, deadline_s = self._costs, math.inf
        for run in live:
            spare_s = run.due_s(self._now_s) - self._now_s - costs.tail_s
            if spare_s > 0:
                deadline_s = min(deadline_s, spare_s * costs.budget_share / max(1, run.steps))
        tiers = {run.tier for run in live}
        caps = {tier: min((costs.cap_s[each] for each in tiers if RANK[each] < RANK[tier]), default=math.inf)
                for tier in tiers}  # fmt: skip
        return {tier: (cap_s, min(cap_s, deadline_s)) for tier, cap_s in caps.items()}

    def _fill(self, seated: Sequence[_Run], limits: Mapping[Tier, tuple[float, float]]) -> None:
        for run in seated:
            cap_s, limit_s = limits[run.tier] if self.work else (math.inf, math.inf)
            tokens, needs_s = self._fit(run, limit_s)
            if tokens is None:
                self._at_rest.append(run)
                self._may_change |= needs_s <= cap_s
                continue
            self.work.append((run, tokens))
            if tokens:
                self.prefill += tokens
            else:
                self.decodes += 1
                self.context += run.context

    def _fit(self, run: _Run, limit_s: float) -> tuple[int | None, float]:
        """Prompt tokens of the run in this step (0 = it decodes one token, None = it does not fit), and the step's time
        with them."""
        costs = self._costs
        if not run.prefill:
            needs_s = costs.step_s(self.decodes + 1, self.prefill, self.context + run.context)
            return (0 if needs_s <= limit_s else None), needs_s
        chunk = costs.chunk
        while True:
            tokens = min(chunk, run.prefill)
            needs_s = costs.step_s(self.decodes, self.prefill + tokens, self.context)
            if needs_s <= limit_s:
                return tokens, needs_s
            chunk = tokens // 2
            if chunk < costs.min_chunk:
                return None, needs_s
