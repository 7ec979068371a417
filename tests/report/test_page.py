"""The run report: complete, self-contained, deterministic, and safe with hostile text."""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.report import Day, DayLine, DayRequest, LadderRung, RunReport, Span, StepPoint, write_report
from orchestrator.report.page import render

STEPS = tuple(
    StepPoint(step=i, at_s=i * 0.1, loss=5 * math.exp(-i / 40) + 1, tokens_per_s=4e4, world_size=2 + (i > 50))
    for i in range(120)
)
SPANS = (
    Span(lane="attempt 1", label="start", start_s=0, end_s=4, kind="stall"),
    Span(lane="attempt 1", label="2 workers", start_s=4, end_s=9, kind="useful"),
    Span(lane="attempt 2", label="3 workers", start_s=10, end_s=20, kind="useful"),
)
FULL = RunReport(
    title="Run demo",
    summary=(("steps", "120"),),
    steps=STEPS,
    spans=SPANS,
    ladder=(LadderRung(name="zlib", bits_per_byte=1.9), LadderRung(name="demo@1", bits_per_byte=3.2, ours=True)),
    prompt="def fibonacci(n):",
    completion="\n    return <script>alert(1)</script>",
    day=Day(
        source="drawn <by hand>",
        begin_h=21.0,
        hours=12.0,
        seconds=40.0,
        lines=tuple(
            DayLine(
                at_s=at,
                demand_replicas=1.5,
                serving=3 - (at > 9),
                lent=int(9 < at < 30),
                returning=int(at >= 30),
                spot_nodes=1,
                workers=2,
            )
            for at in range(40)
        ),
        requests=(
            DayRequest(at_s=1.0, waited_s=0.4),
            DayRequest(at_s=2.0, waited_s=2.5),
            DayRequest(at_s=3.0, waited_s=0.1, problem="refused"),
        ),
        promised_s=2.0,
        replicas=3,
        nodes_moved=3,
    ),
    notes=("kept: nothing",),
)


def test_every_part_is_drawn_and_needs_nothing_from_outside() -> None:
    page = render(FULL)
    assert page.count("<svg") == 4
    assert "drawn &lt;by hand&gt;" in page
    assert "<script" not in page
    assert "src=" not in page
    assert "def fibonacci(n):" in page


def test_same_values_give_the_same_figures() -> None:
    assert render(RunReport(title="a", summary=())) == render(RunReport(title="a", summary=()))


def test_empty_parts_are_left_out() -> None:
    page = render(RunReport(title="empty", summary=(("state", "cancelled"),)))
    assert "<svg" not in page
    assert "cancelled" in page


def test_write_leaves_only_the_page(tmp_path: Path) -> None:
    path = write_report(FULL, tmp_path / "runs" / "report.html")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_what_is_refused_is_late_and_a_device_that_comes_back_has_moved_twice() -> None:
    assert FULL.day is not None
    assert (FULL.day.late, FULL.day.most_lent, FULL.day.devices_moved) == (2, 1, 3 + 2)
