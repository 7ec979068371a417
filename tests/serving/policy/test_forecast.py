"""What admission plays forward is what the scheduler would do, and stopping early changes no verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serving.policy import Tier, exact
from serving.policy.costs import Costs, Run
from serving.policy.fill import fill_online, step_budget
from serving.policy.forecast import Effort, Forecast
from serving.policy.harm import Harm, last_moments_s
from serving.policy.order import order_online
from serving.policy.rows import Row
from serving.policy.rules import Rules
from tests.serving.policy.worlds import CONFIG, request

# Cached tokens cost nothing, or a stretch of equal steps would be rounded to whole tokens. No two sums are equal:
# of work that takes just what a deadline leaves, rounding would decide whether it fits, in each of the two another way.
MODEL = exact(base_s=0.005413, row_s=0.0012071, prefill_token_s=0.00040319)
_PLENTY = 10**9


@st.composite
def rows(draw: st.DrawFn, name: str, latest_s: float, tenants: str = "") -> list[Row]:
    """Up to ten online rows, as they come in."""
    found = []
    for index in range(draw(st.integers(0, 10))):
        tier = draw(st.sampled_from([Tier.KEYSTROKE, Tier.INTERACTIVE]))
        prompt, tokens, at_s = draw(st.integers(1, 150)), draw(st.integers(1, 24)), draw(st.floats(0, latest_s))
        due_s = at_s + draw(st.floats(0.3, 3.0))
        asked = request(f"{name}{index}", tier, at_s, prompt=prompt, tokens=tokens, deadline_s=due_s)
        found.append(Row(request=dataclasses.replace(asked, tenant=draw(st.sampled_from(tenants or " ")))))
    return sorted(found, key=lambda row: (row.request.arrival_s, row.request.id))


def step_by_step(live: Sequence[Row], coming: Sequence[Row], rules: Rules) -> dict[str, float]:
    """When rows are done if every step is filled by the scheduler's own functions."""
    here, later = [dataclasses.replace(row) for row in live], [dataclasses.replace(row) for row in coming]
    now_s, done = 0.0, {}
    while here or later:
        if not here:
            now_s = max(now_s, later[0].request.arrival_s)
        while later and later[0].request.arrival_s <= now_s:
            here.append(later.pop(0))
        online = order_online(here, rules, now_s=now_s)
        step = fill_online(online[: rules.num_slots], rules, step_budget(online, rules, now_s=now_s))
        now_s += step.predicted_s
        for work in step.work:
            work.row.prefilled += work.prefill_tokens
            work.row.generated += not work.row.needs_prefill
        done.update((row.request.id, now_s) for row in here if row.is_done)
        here = [row for row in here if not row.is_done]
    return done


@given(rows("live", 0.0, "ab"), rows("coming", 1.5, "ab"), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_rows_finish_when_a_forecast_says(live: list[Row], coming: list[Row], slots: int) -> None:
    config = dataclasses.replace(CONFIG, batch_share=0.0)
    rules = Rules(config=config, model=MODEL, num_slots=slots)
    costs = Costs(rules)
    forecast = Forecast([Run(row, costs) for row in live], costs, start_s=0.0, coming=coming, effort=Effort(_PLENTY))
    forecast.play()
    found = step_by_step(live, coming, rules)
    # A row that cannot be in time any more changes its place between two steps, which a forecast sees at the next
    # arrival or end; of those who are admitted there is none.
    assume(all(found[row.request.id] <= row.request.deadline_s for row in (*live, *coming)))
    assert forecast.finish_s == pytest.approx(found, abs=1e-9)


def plainly(last_s: dict[str, float], before: Forecast, after: Forecast) -> bool:
    """Whether somebody is harmed, by both forecasts played to their end."""
    before.play()
    after.play()
    late = {row_id for row_id, at_s in last_s.items() if after.finish_s[row_id] > at_s}
    delayed = {row_id for row_id in late if after.finish_s[row_id] - before.finish_s.get(row_id, math.inf) >= 1e-3}
    return bool(delayed)


@given(rows("live", 0.0, "ab"), rows("coming", 1.5, "ab"), rows("new", 0.0), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_a_forecast_that_stops_when_it_knows_says_what_the_whole_one_would(
    live: list[Row], coming: list[Row], news: list[Row], slots: int
) -> None:
    costs = Costs(Rules(config=CONFIG, model=MODEL, num_slots=slots))
    runs = [Run(row, costs) for row in live]
    for new in news:
        last_s = last_moments_s([*runs, Run(new, costs)], coming, costs, 0.0)

        def forecast(given_runs: Sequence[Run]) -> Forecast:
            return Forecast(given_runs, costs, start_s=0.0, coming=coming, effort=Effort(_PLENTY))

        without, with_new = forecast(runs), forecast([*runs, Run(new, costs)])
        harm = Harm(last_s, with_new, lambda: forecast(runs))
        found = harm.is_done_to_anybody(Effort(_PLENTY))
        assert found == plainly(last_s, without, forecast([*runs, Run(new, costs)]))
