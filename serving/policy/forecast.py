"""When rows will finish: the scheduler's own step filling played forward, on numbers instead of rows.

Counts online rows and what the batch share takes from them; batch rows that merely soak up idle time give way and so
delay nobody. Admission asks for a forecast at each arrival, between two steps of the engine, so its cost is part of
everybody's wait: stretches of equal steps are taken at once, and whoever asks says how far it matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.policy.costs import Costs, Run
from serving.policy.order import in_order
from serving.policy.rows import Row
from serving.policy.rules import Rules
from serving.policy.step_time import StepShape


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
        self, rows: Sequence[Row], costs: Costs, *, start_s: float, coming: Sequence[Row] = (), effort: Effort
    ) -> None:
        self.now_s = start_s
        self.finish_s: dict[str, float] = {}
        self._effort = effort
        self._costs = costs
        waited_for = [run for run in (Run(row, costs) for row in rows) if run.is_waited_for(start_s)]
        self._live = in_order([(run.due_s(start_s), run) for run in waited_for])
        self._later = sorted(coming, key=lambda row: (-row.request.arrival_s, row.request.id))

    @property
    def is_over(self) -> bool:
        """Everybody is done, or nothing more can be said."""
        return not (self._live or self._later) or self._effort.left <= 0

    @property
    def live(self) -> list[Row]:
        """Copies of who is here and not done, as of now."""
        return [run.as_row() for run in self._live]

    def play(self, until_s: float = math.inf) -> None:
        """Everything that ends by then; who does not finish has no entry."""
        while not self.is_over and self.now_s <= until_s:
            self.stretch()

    def stretch(self) -> bool:
        """The next steps that do the same work; whether somebody has finished."""
        self._effort.left -= len(self._live) + 1
        if self._later:
            self._join()
        step = _Step(self._live, self._costs, self.now_s)
        steps, mean_s = self._equal_steps(step)
        self.now_s += steps * mean_s
        done = step.advance(steps)
        if done:
            self.finish_s.update((run.request.id, self.now_s) for run in self._live if not run.tokens)
            self._live = [run for run in self._live if run.tokens]
        return done

    def _join(self) -> None:
        """Those whose moment has come, or, where nobody is here, the next one's."""
        later = self._later
        if not self._live:
            self.now_s = max(self.now_s, later[-1].request.arrival_s)
        arrived = []
        while later and later[-1].request.arrival_s <= self.now_s:
            arrived.append(Run(later.pop(), self._costs))
        if arrived:
            self._live = in_order([(run.due_s(self.now_s), run) for run in [*self._live, *arrived]])

    def _equal_steps(self, step: _Step) -> tuple[int, float]:
        """How many steps from now hold exactly this work, and how long one takes."""
        costs = self._costs
        steps, decodes = step.equal_steps(), len(step.decoding)
        # Each row's cache grows by a token a step; the time is linear in it, so the mean step stands for all of them.
        grown_tokens = math.ceil((steps - 1) * decodes / 2)
        mean_s = costs.step_s(decodes, step.prefill, step.context + grown_tokens) / costs.online_share
        if self._later and mean_s > 0:  # not beyond the next arrival
            to_next_s = self._later[-1].request.arrival_s - self.now_s
            steps = max(1, min(steps, math.ceil(to_next_s / mean_s)))
        return steps, mean_s


def drain_s(rows: Sequence[Row], rules: Rules) -> float:
    """Time to finish all of these rows with every slot in use."""
    steps = sum(row.remaining_steps(rules.config.prefill_chunk_tokens) for row in rows)
    width = max(1, min(rules.num_slots, len(rows)))
    return steps / width * rules.model.predict_s(StepShape(width, 0, 0))


class _Step:
    """What `fill.fill_online` puts into the next step: of the first in line among all that live, who fits."""

    __slots__ = ("_at_rest", "_costs", "_may_change", "_now_s", "context", "decoding", "prefill", "reading")

    def __init__(self, live: Sequence[Run], costs: Costs, now_s: float) -> None:
        self._costs = costs
        self._now_s = now_s
        self._at_rest = list(live[costs.online_slots :])
        self._may_change = False
        self.decoding: list[Run] = []
        self.reading: list[tuple[Run, int]] = []
        self.prefill = self.context = 0
        self._fill(live[: costs.online_slots], *self._limits(live))

    def equal_steps(self) -> int:
        """How many steps from now hold exactly this work, where that is certain; else 1."""
        if self.prefill or self._may_change:
            return 1
        costs, now_s = self._costs, self._now_s
        steps = min([run.tokens for run in self.decoding])
        step_s = costs.step_s(len(self.decoding), 0, self.context)
        if step_s <= 0:  # nothing is known of this machine yet
            return steps
        lasts_s = step_s / costs.online_share
        for run in self._at_rest:  # one that nears its deadline makes steps shorter
            needs_s = max(run.alone_s, run.steps * step_s / costs.budget_share)
            spare_s = run.towards_s - now_s - needs_s - costs.tail_s
            steps = max(1, min(steps, math.floor(spare_s / lasts_s)))
        return steps

    def advance(self, steps: int) -> bool:
        """Take over so many equal steps of this work; whether somebody has made the last token."""
        done = False
        for run in self.decoding:
            run.decode(steps)
            done = done or not run.tokens
        for run, tokens in self.reading:
            run.read(tokens)
            done = done or not run.tokens
        return done

    def _limits(self, live: Sequence[Run]) -> tuple[tuple[float, ...], float]:
        """The longest step that caps allow, per rank, and that deadlines allow."""
        costs, now_s = self._costs, self._now_s
        tail_s, share = costs.tail_s, costs.budget_share
        deadline_s, present = math.inf, 0
        for run in live:
            present |= 1 << run.rank
            is_in_time = run.deadline_s - now_s - run.alone_s >= run.late_s  # as in `due_s`, which costs a call
            run.towards_s = run.deadline_s if is_in_time else run.due_s(now_s)
            spare_s = run.towards_s - now_s - tail_s
            if spare_s > 0:
                limit_s = spare_s * share / run.steps if run.steps > 1 else spare_s * share
                if limit_s < deadline_s:
                    deadline_s = limit_s
        return costs.caps_s(present), deadline_s

    def _fill(self, seated: Sequence[Run], caps_s: Sequence[float], deadline_s: float) -> None:
        costs = self._costs
        decode_s, prefill_s, context_s = costs.decode_s, costs.prefill_s, costs.context_s
        limits_s = [min(cap_s, deadline_s) for cap_s in caps_s]
        # What did not fit, per rank: as much or more of it does not fit beside more, so nobody need try again.
        chunk, reach = [math.inf] * len(limits_s), [math.inf] * len(limits_s)
        decodes = prefill = context = 0
        for run in seated:
            rank = run.rank
            limit_s = limits_s[rank] if decodes or prefill else math.inf  # the first one's work always fits
            if run.prefill:
                if run.least < chunk[rank]:
                    tokens, needs_s = self._most_tokens(run, decodes, prefill, context, limit_s)
                    if tokens:
                        self.reading.append((run, tokens))
                        prefill += tokens
                        continue
                    chunk[rank] = run.least
                    self._may_change |= needs_s <= caps_s[rank]
            elif run.context < reach[rank]:
                needs_s = decode_s[decodes + 1] + prefill_s * prefill + context_s * (context + run.context)
                if needs_s <= limit_s:
                    self.decoding.append(run)
                    decodes += 1
                    context += run.context
                    continue
                reach[rank] = run.context
                self._may_change |= needs_s <= caps_s[rank]
            self._at_rest.append(run)
        self.prefill, self.context = prefill, context

    def _most_tokens(self, run: Run, decodes: int, prefill: int, context: int, limit_s: float) -> tuple[int, float]:
        """Prompt tokens of the run that fit beside the others (0 = none), and the step's time with the last try."""
        costs = self._costs
        tokens = min(costs.chunk, run.prefill)
        while True:
            needs_s = costs.step_s(decodes, prefill + tokens, context)
            if needs_s <= limit_s:
                return tokens, needs_s
            if tokens == run.least:
                return 0, needs_s
            tokens //= 2
