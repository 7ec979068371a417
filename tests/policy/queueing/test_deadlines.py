"""When running is over at the earliest, with hours to keep to."""

from __future__ import annotations

import datetime as dt

import pytest

from orchestrator.policy.queueing.deadlines import earliest_finish_s
from orchestrator.policy.windows import Window

H = 3600.0


def night(opens: str = "22:00", closes: str = "06:00", days: frozenset[int] = frozenset(range(7))) -> Window:
    return Window(
        name="night",
        opens=dt.time.fromisoformat(opens),
        closes=dt.time.fromisoformat(closes),
        timezone="Etc/UTC",
        days=days,
    )


@pytest.mark.parametrize(
    ("now_h", "run_h", "finish_h"),
    [
        (12, 1, 23),
        (12, 8, 30),
        (12, 9, 47),
        (23, 7, 30),
        (23, 8, 47),
        (3, 3, 6),
        (3, 4, 23),
        (6, 0, 22),
    ],
)
def test_running_counts_only_inside_the_window(now_h: float, run_h: float, finish_h: float) -> None:
    assert earliest_finish_s(run_h * H, now_s=now_h * H, window=night()) == finish_h * H


def test_without_a_window_everything_counts() -> None:
    assert earliest_finish_s(5.0, now_s=7.0) == 12.0


def test_a_whole_day_has_no_gap_that_is_counted_twice() -> None:
    assert earliest_finish_s(50 * H, now_s=H, window=night("00:00", "00:00")) == 51 * H


def test_what_no_year_of_windows_holds_has_no_end() -> None:
    assert earliest_finish_s(60 * 8 * H, now_s=0.0, window=night(days=frozenset({3}))) is None
