"""When rows will finish: the scheduler's own step filling played forward on copies.

Counts online rows and what the batch share takes from them; batch rows that merely soak up idle time give way and so
delay nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from serving.policy.fill import Filled, Rules, fill_online, step_budget_s
from serving.policy.rows import Row
from serving.policy.step_time import StepShape


def forecast(rows: Sequence[Row], rules: Rules, *, start_s: float) -> dict[str, float]:
    """When each of these rows, served in this order, finishes if nothing else arrives."""
    finish: dict[str, float] = {}
    for at_s, left in play(rows, rules, start_s=start_s):
        alive = {row.request.id for row in left}
        finish.update({row.request.id: at_s for row in rows if row.request.id not in alive | finish.keys()})
    return finish


def play(rows: Sequence[Row], rules: Rules, *, start_s: float) -> Iterator[tuple[float, list[Row]]]:
    """Serve copies of `rows` until all are done; yields the time and who is left whenever some finish."""
    live, now_s = [row.copy() for row in rows], start_s
    while live:
        budget_s = step_budget_s(live, rules, now_s=now_s)
        filled = fill_online(live[: rules.num_slots], rules, budget_s)
        steps = _alike_steps(filled, len(live) <= rules.num_slots)
        # Each row's cache grows by a token a step; the time is linear in it, so the mean step stands for all of them.
        grown_tokens = math.ceil((steps - 1) * filled.shape.decode_rows / 2)
        mean_s = rules.model.predict_s(filled.shape + StepShape(0, 0, grown_tokens))
        now_s += steps * mean_s / (1 - rules.config.batch_share)
        for work in filled.work:
            for _ in range(steps):
                work.row.advance(work)
        left = [row for row in live if not row.is_done]
        if len(left) < len(live):
            yield now_s, [row.copy() for row in left]
        live = left


def drain_s(rows: Sequence[Row], rules: Rules) -> float:
    """Time to finish all of these rows with every slot in use."""
    steps = sum(row.remaining_steps(rules.config.prefill_chunk_tokens) for row in rows)
    width = max(1, min(rules.num_slots, len(rows)))
    return steps / width * rules.model.predict_s(StepShape(width, 0, 0))


def _alike_steps(filled: Filled, all_have_slots: bool) -> int:
    """How many steps from now hold exactly this work, where that is certain; else 1."""
    if filled.skipped or not all_have_slots or filled.shape.prefill_tokens:
        return 1
    return min(work.row.request.max_tokens - work.row.generated for work in filled.work)
