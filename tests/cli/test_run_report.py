"""A run's record as a page: every attempt drawn from opening to closing, every step a point."""

from __future__ import annotations

from orchestrator.adapters.ray_train.events import AttemptClosed, AttemptOpened, Cause, Event, Outcome, StepDone
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.cli.run_report import run_facts, run_report


def step(attempt: int, number: int, at_s: float, world_size: int) -> StepDone:
    return StepDone(
        at_s=at_s,
        attempt=attempt,
        step=number,
        world_size=world_size,
        loss=3.0,
        lr=1e-3,
        grad_norm=1.0,
        num_tokens=100,
        step_s=0.5,
    )


EVENTS: list[Event] = [
    AttemptOpened(at_s=1000.0, attempt=1, cause=Cause.START, world_size=2, start_step=0),
    step(1, 1, 1004.5, 2),
    step(1, 2, 1005.0, 2),
    AttemptClosed(at_s=1005.5, attempt=1, outcome=Outcome.PLANNED, cause=Cause.GROW, step=2),
    AttemptOpened(at_s=1005.5, attempt=2, cause=Cause.GROW, world_size=4, start_step=2),
    step(2, 3, 1007.0, 4),
    AttemptClosed(at_s=1007.0, attempt=2, outcome=Outcome.FINISHED, cause=None, step=3),
]


def test_attempts_are_drawn_without_holes() -> None:
    record = RunRecord.of("demo", EVENTS)
    report = run_report(record, EVENTS, title="demo")
    assert [(s.label, s.start_s, s.end_s, s.kind) for s in report.spans] == [
        ("start", 0.0, 4.0, "stall"),
        ("2 workers", 4.0, 5.0, "useful"),
        ("leave", 5.0, 5.5, "stall"),
        ("start", 5.5, 6.5, "stall"),
        ("4 workers", 6.5, 7.0, "useful"),
    ]
    assert [point.world_size for point in report.steps] == [2, 2, 4]
    assert report.steps[0].tokens_per_s == 200


def test_a_long_run_is_drawn_by_some_of_its_steps_the_last_one_among_them() -> None:
    events = [EVENTS[0], *(step(1, number, 1000.0 + number, 2) for number in range(1, 20_002))]
    points = run_report(RunRecord.of("demo", events), events, title="demo").steps
    assert 3000 < len(points) <= 4000
    assert points[-1].step == 20_001


def test_facts_tell_sizes_and_losses() -> None:
    facts = dict(run_facts(RunRecord.of("demo", EVENTS)))
    assert facts["workers"] == "2 → 4"
    assert facts["steps lost"] == "0"
    assert facts["tokens"] == "300"
