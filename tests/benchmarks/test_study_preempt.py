"""What the searches under preemptions are counted as, on hand-made rows and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.study_plain import counted
from tests.benchmarks.study_preempt import summary


def test_runs_that_failed_or_were_stopped_are_left_out_of_the_ratios() -> None:
    rows = [
        {"ours_calm": {"steps": 100}, "ours_preempted": {"steps": 130}, "defaults_calm": {"error": "RayError: gone"}},
        {"ours_calm": {"steps": 100}, "ours_preempted": {"steps": 900, "timed_out": True}},
        {"ours_calm": {"steps": 100, "timed_out": False}, "ours_preempted": {"steps": 110}},
        {"ours_calm": {"steps": 0}, "ours_preempted": {"steps": 110}},
    ]
    found = summary(rows, "steps")
    assert found["ours"] == {
        "median": pytest.approx(1.2),
        "range": [pytest.approx(1.1), pytest.approx(1.3)],
        "seeds": 2,
    }
    assert found["defaults"] == found["tuned"] == {"median": None, "range": None, "seeds": 0}


def test_a_trial_killed_before_its_first_step_counts_as_a_start(tmp_path: Path) -> None:
    (tmp_path / "count-1").write_text("0 27 3.5\n")
    (tmp_path / "count-2").write_text("20 30 1.5\n")
    (tmp_path / "count-3").write_text("")
    assert counted(tmp_path) == (3, 37, 5.0)
