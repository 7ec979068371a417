"""When rows will finish: the scheduler's own step filling played forward, on numbers instead of rows.

Counts online rows and what the batch share takes from them; batch rows that merely soak up idle time give way and so
delay nobody. Admission asks for a forecast at each arrival, between two steps of the engine, so its cost is part of
everybody's wait: stretches of equal steps are taken at once, and whoever asks says how far it matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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
    """The future of these rows if nothing else arrives; `coming`, earliest first, join at their arrival.

    `stretch` plays on until something changes; `now_s` is how far it has come, `finish_s` holds who is done by then.
    It is over when everybody is, or the effort is spent. The given rows stay as they are.
    """

    def __init__(
        self, runs: Sequence[Run], costs: Costs, *, start_s: float, coming: Sequence[Row] = (), effort: Effort
    ) -> None:
        self.now_s = start_s
        self._live: list[Run] = []
        self.finish_s: dict[str, float] = {}
        self._effort = effort
        self._costs = costs
        self._later = [*reversed(coming)]
        tenants = {run.request.tenant for run in runs} | {row.request.tenant for row in coming}
        self._takes_turns = len(tenants) > 1
        self._line_up([run.copy() for run in runs if run.is_waited_for(start_s)])

    @property
    def is_over(self) -> bool:
        """Everybody is done, or nothing more can be said."""
        return not (self._live or self._later) or self._effort.left <= 0

    @property
    def is_idle(self) -> bool:
        """Nobody is here, and whoever is to come finds the engine free."""
        return not self._live and not (self._later and self._later[-1].request.arrival_s <= self.now_s)

    @property
    def live(self) -> Sequence[Run]:
        """Who is here and not done, as of now."""
        return self._live

    def play(self, until_s: float = math.inf) -> None:
        """Everything that ends by then; who does not finish has no entry."""
        while not self.is_over and self.now_s <= until_s:
            self.stretch()

    def finish(self, row_ids: Sequence[str], until_s: float) -> None:
        """As `play`, but no longer than until all of these are done."""
        while not self.is_over and self.now_s <= until_s:
            if all(row_id in self.finish_s for row_id in row_ids):
                return
            self.stretch()

    def stretch(self) -> bool:
        """The next steps that do the same work; whether somebody has finished."""
        self._effort.left -= len(self._live) + 1
        if self._later:
            self._join()
        costs, live = self._costs, self._live
        step = _fill(live, costs, self.now_s)
        steps, mean_s = self._equal_steps(step)
        self.now_s += steps * mean_s
        done = False
        for run in step.decoding:  # each makes a token a step
            run.steps = run.tokens = tokens = run.tokens - steps
            run.context += steps
            run.alone_s = tokens * run.decode_s
            if not tokens:
                done = True
        for run, tokens in step.reading:
            run.read(tokens)
            if not run.tokens:
                done = True
        if done:
            self.finish_s.update((run.request.id, self.now_s) for run in live if not run.tokens)
            self._live = [run for run in live if run.tokens]
            if self._takes_turns:
                self._line_up(self._live)
        return done

    def _line_up(self, live: Sequence[Run]) -> None:
        """The order of the next step: whose turn it is depends on who is here."""
        self._live = in_order([(run.due_s(self.now_s), run) for run in live])

    def _join(self) -> None:
        """Those whose moment has come, or, where nobody is here, the next one's."""
        later = self._later
        if not self._live:
            self.now_s = max(self.now_s, later[-1].request.arrival_s)
        elif later[-1].request.arrival_s > self.now_s:
            return
        live = list(self._live)
        while later and later[-1].request.arrival_s <= self.now_s:
            live.append(Run(later.pop(), self._costs))
        self._line_up(live)

    def _equal_steps(self, step: _Step) -> tuple[int, float]:
        """How many steps from now certainly hold exactly this work, and how long one takes."""
        costs, decodes = self._costs, len(step.decoding)
        steps = 1 if step.prefill or step.may_change else self._steps_alike(step)
        # Each row's cache grows by a token a step; the time is linear in it, so the mean step stands for all of them.
        grown_tokens = math.ceil((steps - 1) * decodes / 2)
        mean_s = costs.step_s(decodes, step.prefill, step.context + grown_tokens) / costs.online_share
        if steps > 1 and self._later and mean_s > 0:  # not beyond the next arrival
            to_next_s = self._later[-1].request.arrival_s - self.now_s
            steps = max(1, min(steps, math.ceil(to_next_s / mean_s)))
        return steps, mean_s

    def _steps_alike(self, step: _Step) -> int:
        """Until a row of this step is done, or one at rest nears its deadline and makes steps shorter."""
        costs, now_s = self._costs, self.now_s
        steps = min([run.tokens for run in step.decoding])
        step_s = costs.step_s(len(step.decoding), 0, step.context)
        if step_s <= 0:  # nothing is known of this machine yet
            return steps
        lasts_s = step_s / costs.online_share
        working = {id(run) for run in step.decoding}
        for run in self._live:
            if id(run) in working:
                continue
            needs_s = max(run.alone_s, run.steps * step_s / costs.budget_share)
            spare_s = run.due_s(now_s) - now_s - needs_s - costs.tail_s
            steps = max(1, min(steps, math.floor(spare_s / lasts_s)))
        return steps


def drain_s(steps: Sequence[int], rules: Rules) -> float:
    """Time to finish rows that need so many steps each, with every slot in use."""
    width = max(1, min(rules.num_slots, len(steps)))
    return sum(steps) / width * rules.model.predict_s(StepShape(width, 0, 0))


class _Step(NamedTuple):
    """A step's work, and whether somebody who has none in it may have some in the next one."""

    decoding: list[Run]
    reading: list[tuple[Run, int]]
    prefill: int
    context: int
    may_change: bool


def _fill(live: Sequence[Run], costs: Costs, now_s: float) -> _Step:
    """What `fill.fill_online` puts into the next step: of the first in line among all that live, who fits.

    In one piece and on local numbers: this is nearly all that a decision costs.
    """
    caps_s, deadline_s = _limits(live, costs, now_s)
    decode_s, prefill_s, context_s = costs.decode_s, costs.prefill_s, costs.context_s
    seated = live if len(live) <= costs.online_slots else live[: costs.online_slots]
    decoding: list[Run] = []
    reading: list[tuple[Run, int]] = []
    # What did not fit, per rank: as much or more of it does not fit beside more, so nobody need try again.
    chunk, reach = [math.inf] * len(caps_s), [math.inf] * len(caps_s)
    decodes = prefill = context = 0
    limit_s, may_change = math.inf, False  # the first one's work always fits
    for run in seated:
        rank = run.rank
        if decodes or prefill:
            limit_s = caps_s[rank]
            if deadline_s < limit_s:
                limit_s = deadline_s
        if run.prefill:
            if run.least < chunk[rank]:
                tokens = run.prefill if run.prefill < costs.chunk else costs.chunk
                decodes_s, contexts_s = decode_s[decodes], context_s * context
                needs_s = decodes_s + prefill_s * (prefill + tokens) + contexts_s
                while needs_s > limit_s and tokens != run.least:
                    tokens //= 2
                    needs_s = decodes_s + prefill_s * (prefill + tokens) + contexts_s
                if needs_s <= limit_s:
                    reading.append((run, tokens))
                    prefill += tokens
                    continue
                chunk[rank] = run.least
                may_change |= needs_s <= caps_s[rank]
        elif run.context < reach[rank]:
            needs_s = decode_s[decodes + 1] + prefill_s * prefill + context_s * (context + run.context)
            if needs_s <= limit_s:
                decoding.append(run)
                decodes += 1
                context += run.context
                continue
            reach[rank] = run.context
            may_change |= needs_s <= caps_s[rank]
    return _Step(decoding, reading, prefill, context, may_change)


def _limits(live: Sequence[Run], costs: Costs, now_s: float) -> tuple[tuple[float, ...], float]:
    """The longest step that caps allow, per rank, and that deadlines allow."""
    from_s, share = now_s + costs.tail_s, costs.budget_share
    deadline_s, present = math.inf, 0
    for run in live:
        present |= run.bit
        is_in_time = now_s + run.alone_s <= run.nearly_s  # as in `due_s`, which costs a call
        spare_s = (run.deadline_s if is_in_time else run.due_s(now_s)) - from_s
        if 0 < spare_s * share < deadline_s * run.steps:
            deadline_s = spare_s * share / run.steps
    return costs.caps_s(present), deadline_s
