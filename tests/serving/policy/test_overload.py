"""Far more than an engine can do: whoever is admitted is in time, and who was told when to come again gets in then."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.policy import Request, StepShape, Tier, TierScheduler, calibrated
from tests.serving.policy.simulator import Outcome, simulate
from tests.serving.policy.worlds import CONFIG, MODEL, SLOTS, backlog, request, scheduler

_SECONDS = 3.0
_SHAPES = [StepShape(rows, prompt, rows * 96) for rows in (1, 4, 8) for prompt in (0, 32, 64)]
_SAMPLES = [(shape, MODEL.predict_s(shape)) for shape in _SHAPES]


def overload(times: float, *, seed: int) -> list[Request]:
    """Some seconds of so many times 4 keystrokes and half a slower request each; the engine can do some five times."""
    rng, rows = random.Random(seed), []
    for tier, per_s, tokens in ((Tier.KEYSTROKE, 4 * times, 8), (Tier.INTERACTIVE, 0.5 * times, 40)):
        at_s = 0.0
        while (at_s := at_s + rng.expovariate(per_s)) < _SECONDS:
            name = f"r{len(rows):03}"
            rows.append(request(name, tier, at_s, tokens=tokens, retry_key=name))
    return rows


def run(rows: list[Request], *, delay_s: float, seed: int, noise: float = 0.0) -> Outcome:
    """Everybody who is refused comes again up to `delay_s` after the hinted time, twice if need be. With noise, what
    steps take is learned."""
    rng = random.Random(seed)
    replica = TierScheduler(CONFIG, num_slots=SLOTS, model=calibrated(_SAMPLES)) if noise else scheduler()

    def step_s(shape: StepShape) -> float:
        return MODEL.predict_s(shape) * (rng.lognormvariate(0, noise) if noise else 1.0)

    return simulate(replica, rows, num_slots=SLOTS, step_s=step_s,
                    comes_again=lambda _: rng.uniform(0, delay_s), num_returns=2)  # fmt: skip


def returned(out: Outcome, times: int) -> tuple[int, int]:
    """(who came again for the so-manieth time, how many of them were refused)."""
    came = [row_id for row_id in (*out.admitted, *out.refused) if row_id.count("+") == times]
    return len(came), sum(row_id in out.refused for row_id in came)


def most_late_s(out: Outcome) -> float:
    """Seconds by which the latest of those who were to be in time is late."""
    promised = [
        row_id for row_id, verdict in out.admitted.items() if verdict.predicted_finish_s <= out.deadline_s[row_id]
    ]
    assert promised
    return max(out.finish_s[row_id] - out.deadline_s[row_id] for row_id in promised)


@pytest.mark.parametrize("times", [8, 12, 15])
@pytest.mark.parametrize("delay_s", [0.0, 0.9])
def test_nobody_who_is_admitted_is_late_however_many_come_and_come_again(times: float, delay_s: float) -> None:
    out = run(overload(times, seed=1), delay_s=delay_s, seed=2)
    assert returned(out, 1)[0] > 5
    assert most_late_s(out) <= 1e-9


@pytest.mark.parametrize("times", [8, 12])
def test_nor_beside_batch_rows_but_by_the_step_that_their_share_buys(times: float) -> None:
    out = run([*backlog(100), *overload(times, seed=1)], delay_s=0.9, seed=2)
    bought_s = max(plan.batch_s for plan in out.plans if plan.batch_s < plan.predicted_s)
    assert most_late_s(out) <= bought_s


@given(st.integers(0, 10_000), st.floats(5, 20), st.floats(0, 1))
@settings(max_examples=5, deadline=None)
def test_no_load_and_no_way_of_coming_again_makes_an_admitted_request_late(
    seed: int, times: float, delay_s: float
) -> None:
    rows = [row for row in overload(times, seed=seed) if row.arrival_s < 1.5]
    out = run(rows, delay_s=delay_s, seed=seed)
    assert not out.admitted or most_late_s(out) <= 1e-9


@pytest.mark.parametrize("times", [8, 12])
def test_nine_of_ten_get_in_within_a_second_of_the_hint(times: float) -> None:
    """Measured: 9 of 152 at eight times the load and 18 of 347 at twelve times were refused once more."""
    seen = [returned(run(overload(times, seed=seed), delay_s=0.9, seed=seed + 1), 1) for seed in range(3)]
    came, refused = (sum(each) for each in zip(*seen, strict=True))
    assert came > 100
    assert refused <= 0.1 * came


def test_both_hold_nearly_as_well_where_steps_vary() -> None:
    """Measured: 7 of 159 are refused once more, and one of 289 answers is late."""
    runs = [run(overload(8, seed=seed), delay_s=0.5, seed=seed + 1, noise=0.05) for seed in range(3)]
    came, refused = (sum(each) for each in zip(*(returned(out, 1) for out in runs), strict=True))
    late = [row_id for out in runs for row_id in out.admitted if out.finish_s[row_id] > out.deadline_s[row_id]]
    assert came > 100
    assert refused <= 0.1 * came
    assert len(late) <= 0.02 * sum(len(out.admitted) for out in runs)
