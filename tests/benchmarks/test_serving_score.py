"""The arithmetic behind the serving benchmark's figures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.benchmarks import serving_loads as loads
from tests.benchmarks import serving_score as score


def record(at_s: float, latency_s: float | None = 0.1, *, tier: str = "keystroke", **changed: Any) -> dict[str, Any]:
    done_s = None if latency_s is None else at_s + latency_s
    return {"tier": tier, "phase": "p", "session": None, "at_s": at_s, "sent_s": at_s, "done_s": done_s, "status": 200,
            "tokens": 8, "finish": "length", "asked_tokens": 8, "hinted": False, "retry_after_s": None,
            **changed}  # fmt: skip


def test_a_refused_request_is_a_miss_without_end() -> None:
    scored = score.score_tier(
        [record(i) for i in range(9)] + [record(9, status=429)], "keystroke", seconds=10, warmup_s=0
    )
    assert scored is not None
    assert (scored.in_slo, scored.shed, scored.p50_s, scored.p99_s) == (0.9, 0.1, pytest.approx(0.1), None)
    assert scored.answered_p99_s == pytest.approx(0.1)
    assert scored.goodput_rps == pytest.approx(0.9)


def test_a_superseded_request_is_left_out_only_when_its_successor_was_answered() -> None:
    first = record(0, finish="superseded", session="s")
    answered, refused = record(1, session="s"), record(1, session="s", status=429)
    with_answer = score.score_tier([first, answered], "keystroke", seconds=2, warmup_s=0)
    without = score.score_tier([first, refused], "keystroke", seconds=2, warmup_s=0)
    assert with_answer is not None
    assert without is not None
    assert (with_answer.superseded, with_answer.in_slo) == (0.5, 1.0)
    assert (without.superseded, without.in_slo) == (0.0, 0.5)


def test_requests_of_the_warm_up_and_of_other_tiers_do_not_count() -> None:
    mixed = [record(1, 9.0), record(5), record(6, 4.9, tier="interactive")]
    scored = score.score_tier(mixed, "keystroke", seconds=10, warmup_s=3)
    assert scored is not None
    assert (scored.sent, scored.in_slo) == (1, 1.0)
    assert score.score_tier([], "keystroke", seconds=1, warmup_s=0) is None


def test_an_answer_counts_for_the_stretch_in_which_it_was_made() -> None:
    half_in = record(0.0, 2.0, tier="batch", tokens=64)
    assert score.batch_tokens_per_s([half_in], start_s=1.0, end_s=3.0) == pytest.approx(16.0)


def test_tokens_that_come_after_the_next_key_are_wasted() -> None:
    keys = [record(0.0, 0.5, session="s"), record(0.3, 0.1, session="s")]
    assert score.wasted_tokens(keys) == 8


def test_retries_count_as_admitted_when_they_are_answered() -> None:
    came = [record(1, hinted=True), record(2, hinted=True, status=429), record(3)]
    assert score.retry_accuracy(came) == (1, 2)


def test_loads_are_the_same_for_every_system_and_differ_between_repeats() -> None:
    assert loads.poisson_mix(60, seed=1, backlog=4) == loads.poisson_mix(60, seed=1, backlog=4)
    assert loads.poisson_mix(60, seed=1, backlog=4) != loads.poisson_mix(60, seed=2, backlog=4)


def test_the_mix_has_its_rates_and_overload_its_multiples() -> None:
    arrivals = loads.poisson_mix(600, seed=3, backlog=0).arrivals
    assert sum(a.tier == "keystroke" for a in arrivals) / 600 == pytest.approx(4.0, rel=0.1)
    assert sum(a.tier == "interactive" for a in arrivals) / 600 == pytest.approx(0.5, rel=0.2)
    over = loads.overload(300, seed=3, backlog=0)
    counts = [sum(a.phase == phase for a in over.arrivals) / s for phase, _, s in loads.overload_phases(300)]
    assert counts == [pytest.approx(4.5 * m, rel=0.2) for m in (0.5, 1.0, 2.0, 3.0, 1.0)]


def test_a_typist_asks_again_within_400_ms_or_pauses() -> None:
    keys = [a.at_s for a in loads.typists(60, seed=1, backlog=0, count=1).arrivals]
    gaps = [later - earlier for earlier, later in itertools.pairwise(keys)]
    assert all(0.2 <= gap <= 0.4 or 1 <= gap <= 3 for gap in gaps)
