"""When rows will finish: the scheduler's own step filling played forward on copies.

Counts online rows and what the batch share takes from them; batch rows that merely soak up idle time give way and so
delay nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from serving.policy.fill import Filled, Rules, fill_online, order_online, step_budget
from serving.policy.rows import Row
from serving.policy.step_time import StepShape


def forecast(rows: Sequence[Row], rules: Rules, *, start_s: float, coming: Sequence[Row] = ()) -> dict[str, float]:
    """When each of these rows finishes if nothing else arrives; `coming` join at their arrival."""
    finish: dict[str, float] = {}
    everybody = {row.request.id for row in (*rows, *coming)}
    for at_s, left in play(rows, rules, start_s=start_s, coming=coming):
        alive = {row.request.id for row in left}
        finish.update(dict.fromkeys(everybody - alive - finish.keys(), at_s))
    return finish


def play(
    rows: Sequence[Row], rules: Rules, *, start_s: float, coming: Sequence[Row] = ()
) -> Iterator[tuple[float, list[Row]]]:
    """Serve copies of `rows`, and of `coming` from their arrival on, until all are done; yields the time and who is
    left, those to come included, whenever some finish."""
    live, now_s = order_online([row.copy() for row in rows], rules, now_s=start_s), start_s
    later = sorted((row.copy() for row in coming), key=lambda row: (-row.request.arrival_s, row.request.id))
    while live or later:
        if not live:
            now_s = max(now_s, later[-1].request.arrival_s)
        arrived = False
        while later and later[-1].request.arrival_s <= now_s:
            live.append(later.pop())
            arrived = True
        if arrived:
            live = order_online(live, rules, now_s=now_s)
        filled = fill_online(live[: rules.online_slots], rules, step_budget(live, rules, now_s=now_s))
        steps = _alike_steps(filled, len(live) <= rules.online_slots)
        # Each row's cache grows by a token a step; the time is linear in it, so the mean step stands for all of them.
        grown_tokens = math.ceil((steps - 1) * filled.shape.decode_rows / 2)
        mean_s = rules.model.predict_s(filled.shape + StepShape(0, 0, grown_tokens)) / (1 - rules.config.batch_share)
        if later and mean_s > 0:  # not beyond the next arrival
            steps = max(1, min(steps, math.ceil((later[-1].request.arrival_s - now_s) / mean_s)))
        now_s += steps * mean_s
        for work in filled.work:
            for _ in range(steps):
                work.row.advance(work)
        left = [row for row in live if not row.is_done]
        if len(left) < len(live):
            yield now_s, [row.copy() for row in (*left, *reversed(later))]
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
