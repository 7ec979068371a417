"""The live line without a terminal: plain, seldom, and complete."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from orchestrator.adapters.ray_train.events import AttemptClosed, AttemptOpened, Cause, Outcome, Status, StatusChanged
from orchestrator.cli.live import PLAIN_EVERY_S, LiveLine
from tests.cli.test_run_report import step


def lines_of(*events: object, seconds_between: float = 0.0) -> list[str]:
    out, now_s = io.StringIO(), [0.0]
    with LiveLine(Console(file=out, width=200), steps=10, clock=lambda: now_s[0]) as live:
        for event in events:
            live(event)  # type: ignore[arg-type]
            now_s[0] += seconds_between
    return [line.strip() for line in out.getvalue().splitlines()]


def test_line_names_step_loss_speed_and_size() -> None:
    first = dataclasses.replace(step(1, 1, 1.0, 2), metrics={"bits_per_byte": 4.33})
    assert lines_of(first)[0] == "step 1/10  loss 3.000  4.330 bits/byte  200 tokens/s  2 workers"


def test_plain_output_speaks_seldom() -> None:
    steps = [step(1, number, float(number), 2) for number in range(1, 9)]
    said = lines_of(*steps, seconds_between=PLAIN_EVERY_S / 4)
    assert [line.split()[1] for line in said] == ["1/10", "5/10", "8/10"]


def test_changes_of_the_group_stay_on_the_screen() -> None:
    said = lines_of(
        AttemptOpened(at_s=0, attempt=2, cause=Cause.GROW, world_size=4, start_step=30, source="keepers"),
        AttemptClosed(at_s=1, attempt=2, outcome=Outcome.FAILED, cause=Cause.NODE_LOSS, step=33, detail="lost node a"),
        StatusChanged(at_s=2, status=Status.WAITING, detail="there is room for 1 worker; 2 are needed"),
    )
    assert said == [
        "attempt 2 (grow): 4 workers from step 30 with the state from keepers",
        "attempt 2 ended: node_loss: lost node a",
        "waiting: there is room for 1 worker; 2 are needed",
    ]
