"""A study's page: values on every axis, what is left out of a picture said, and a table that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.report import StudyReport, TrialLine, write_study_report
from orchestrator.report.study_plots import curves_svg, parallel_svg


def line(number: int, *curve: tuple[int, float], best: bool = False, **config: object) -> TrialLine:
    return TrialLine(trial=f"t{number}", config=config, curve=curve, is_finished=best or len(curve) > 2, is_best=best)


def report(*trials: TrialLine, mode: str = "min", **more: object) -> StudyReport:
    return StudyReport(title="Study s", metric="loss", mode=mode, summary=(), trials=trials, **more)  # type: ignore[arg-type]


def test_every_axis_has_values_and_says_what_was_not_drawn() -> None:
    rates = [line(n, (9, 1.0 + n), lr=10.0**-n, kind="a" if n % 2 else "b") for n in range(1, 7)]
    svg = parallel_svg(report(*rates, line(7, (9, 3.0), kind="a"), log_keys=frozenset({"lr"})))
    for text in ("1e-06", "1.78e-05", "0.000316", "0.00562", "0.1", "not drawn", "a", "b"):
        assert f"<!-- {text} -->" in svg, text


def test_few_values_are_all_named() -> None:
    svg = parallel_svg(report(*(line(n, (9, float(n)), layers=n) for n in (2, 4, 8))))
    assert all(f"<!-- {n} -->" in svg for n in (2, 4, 8))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_diverged_trial_flattens_nobody_and_is_counted(mode: str) -> None:
    sign = 1.0 if mode == "min" else -1.0
    trials = [line(n, (9, sign * (3 + n / 10)), (27, sign * (2 + n / 10))) for n in range(5)]
    assert "worse than what is drawn" not in curves_svg(report(*trials, mode=mode))
    svg = curves_svg(report(*trials, line(9, (9, sign * 400.0)), mode=mode))
    assert "<!-- 1 of 11 results are worse than what is drawn -->" in svg


def test_rungs_are_marked_and_each_kind_of_end_is_named_once() -> None:
    steps = (9, 27, 81)
    ended = [line(n, *((step, 9.0 - n) for step in steps), best=n == 3) for n in (1, 2, 3)]
    svg = curves_svg(report(*ended, line(4, (9, 5.0))))
    assert all(f"<!-- {step} -->" in svg for step in steps)
    for name in ("t3, the best", "ran to their end", "stopped early, failed or not done yet"):
        assert svg.count(f"<!-- {name} -->") == 1


def test_numbers_stand_right_the_best_is_marked_and_long_names_are_broken(tmp_path: Path) -> None:
    rows = (("t1", "stopped", "9", "0.1", ""), ("t2", "finished", "81", "0.02", "cosine"))
    header = ("trial", "state", "step", "optimizer.lr", "optimizer.schedule")
    best = line(2, (81, 1.0), best=True)
    page = write_study_report(
        report(line(1, (9, 2.0)), best, header=header, rows=rows), tmp_path / "r.html"
    ).read_text()
    assert "<th class='number'><small>optimizer.</small><br>lr</th>" in page
    assert "<th><small>optimizer.</small><br>schedule</th>" in page
    assert "<tr class='best'><td>t2</td><td>finished</td><td class='number'>81</td>" in page
    assert page.count("class='best'") == 1
