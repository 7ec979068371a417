"""What the control plane is told of attempts: every leased worker-second is useful, lost or stalled, exactly."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.jobs.chronicle import WAITING, Chronicle, plan_of
from orchestrator.adapters.jobs.letters import Letter, report_from_json, report_to_json
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    CheckpointSaved,
    Event,
    Outcome,
    Part,
    StacksTaken,
    StallPart,
    StepDone,
    StopAsked,
    Straggler,
    WorkerDied,
)
from orchestrator.adapters.ray_train.record_store import RecordStore, read_events
from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.orders import NoteKind, Phase, Report

T0 = 1000.0


def chronicle() -> Chronicle:
    plan = plan_of(min_workers=1, max_workers=4, batch=BatchPlan(24, 2), habits=HABITS)
    return Chronicle("a", plan=plan, steps=100, habits=HABITS)


def order(attempt: int, at_s: float, **seats: int) -> Letter:
    return Letter(id=f"a-a{attempt}", attempt=attempt, at_s=T0 + at_s, seats=seats)


def opened(at_s: float, nodes: str, start_step: int = 0) -> AttemptOpened:
    return AttemptOpened(
        at_s=T0 + at_s,
        attempt=1,
        cause=Cause.START,
        world_size=len(nodes),
        start_step=start_step,
        nodes=tuple(nodes),
    )


def step(at_s: float, number: int, workers: int = 4, took_s: float = 1.0) -> StepDone:
    return StepDone(
        at_s=T0 + at_s, attempt=1, step=number, world_size=workers, loss=1.0, lr=0.1, grad_norm=1.0, num_tokens=1,
        step_s=took_s,
    )  # fmt: skip


def closed(at_s: float, number: int, outcome: Outcome = Outcome.PLANNED) -> AttemptClosed:
    return AttemptClosed(at_s=T0 + at_s, attempt=1, outcome=outcome, cause=Cause.SHRINK, step=number)


def part(at_s: float, of: Part, seconds: float) -> StallPart:
    return StallPart(at_s=T0 + at_s, attempt=1, part=of, seconds=seconds)


def fed(*what: Letter | Event) -> Chronicle:
    made = chronicle()
    for one in what:
        made.take(one) if isinstance(one, Letter) else made.observe(one)
    return made


def stalled(report: Report) -> float:
    return sum(seconds for _, seconds in report.stalled_worker_s)


def test_an_attempt_is_starting_until_its_group_makes_a_step() -> None:
    made = fed(order(1, 0.0, x=2, y=2), opened(2.0, "xxyy"))
    assert [one.phase for one in made.reports(T0 + 3.0)] == [Phase.STARTING]
    made.observe(step(5.0, 1))
    (report,) = made.reports(T0 + 5.0)
    assert (report.phase, report.steps_done) == (Phase.RUNNING, 1)
    assert stalled(report) == pytest.approx(4 * 4.0)


def test_a_resize_ends_the_attempt_before_once_the_new_group_makes_a_step() -> None:
    made = fed(order(1, 0.0, x=2, y=2), opened(0.0, "xxyy"), step(1.0, 1), order(2, 2.0, x=2), step(2.5, 2))
    assert [(one.attempt, one.phase) for one in made.reports(T0 + 3.0)] == [(1, Phase.RUNNING), (2, Phase.STARTING)]
    for event in (closed(3.0, 2), opened(3.0, "xx", 2), step(5.0, 3, workers=2)):
        made.observe(event)
    first, second = made.reports(T0 + 5.0)
    assert (first.phase, second.phase) == (Phase.STOPPED, Phase.RUNNING)
    assert first.lost_worker_s == second.lost_worker_s == 0
    assert stalled(first) == pytest.approx(4 * 1.0)
    # From the order on two workers are leased: 1.5 s of step 2 and 1 s of step 3 are useful of 3 s.
    assert stalled(second) == pytest.approx(2 * (3.0 - 1.5 - 1.0))


def test_a_run_that_sits_there_already_has_no_stall() -> None:
    """It lost a node, and was smaller before anybody told it to be."""
    made = fed(order(1, 0.0, x=2, y=2), opened(0.0, "xx"), step(1.0, 1, workers=2), order(2, 2.0, x=2))
    assert [(one.attempt, one.phase) for one in made.reports(T0 + 2.0)] == [(1, Phase.STOPPED), (2, Phase.RUNNING)]


def test_steps_that_are_made_again_are_lost() -> None:
    made = fed(order(1, 0.0, x=1), opened(0.0, "x"), step(1.0, 1, 1), step(2.0, 2, 1), step(3.0, 3, 1))
    for event in (closed(3.0, 3, Outcome.FAILED), opened(4.0, "x", 1), step(6.0, 2, 1)):
        made.observe(event)
    (report,) = made.reports(T0 + 6.0)
    assert (report.steps_done, report.lost_worker_s) == (2, 2.0)
    assert stalled(report) == pytest.approx(2.0)


def test_what_was_not_saved_when_a_run_is_lost_is_lost() -> None:
    saved = CheckpointSaved(at_s=T0 + 2.0, attempt=1, step=2, path="p")
    made = fed(order(1, 0.0, x=1), opened(0.0, "x"), step(1.0, 1, 1), step(2.0, 2, 1), saved, step(3.0, 3, 1))
    assert made.reports(T0 + 3.0)[0].unsaved_work_s == pytest.approx(1.0)
    (report,) = made.finish(Phase.LOST, "Ray was lost", T0 + 3.0)
    assert (report.phase, report.lost_worker_s, report.detail) == (Phase.LOST, 1.0, "Ray was lost")


def test_measured_parts_are_named_and_the_rest_is_waiting() -> None:
    made = fed(order(1, 0.0, x=2), opened(3.0, "xx"), part(4.0, Part.IMPORTS, 1.5), step(6.0, 1, 2))
    (report,) = made.reports(T0 + 6.0)
    assert dict(report.stalled_worker_s) == {Part.IMPORTS: pytest.approx(3.0), WAITING: pytest.approx(7.0)}


def test_a_job_that_has_made_steps_says_what_a_resize_costs_it() -> None:
    made = fed(order(1, 0.0, x=2), opened(0.0, "xx"), step(1.0, 1, 2))
    (report,) = made.reports(T0 + 1.0)
    assert report.work_left_s == pytest.approx(99 * 2.0)
    assert report.measured is not None
    assert report.measured.stall_s == HABITS.stall_s
    assert report.measured.outlook[0].expected_s == pytest.approx(99.0)


def test_a_report_is_the_same_after_it_was_written_and_read() -> None:
    made = fed(order(1, 0.0, x=2), opened(0.0, "xx"), part(0.5, Part.IMPORTS, 0.5), step(1.0, 1, 2))
    for report in (*made.reports(T0 + 1.0), *made.finish(Phase.FAILED, "no", T0 + 2.0, final=True)):
        assert report_from_json(report_to_json(report)) == report


events = st.lists(
    st.tuples(st.sampled_from(["step", "again", "fail", "order"]), st.floats(0.1, 5.0), st.integers(1, 3)), max_size=40
)


@given(events)
def test_the_books_of_every_attempt_balance(history: list[tuple[str, float, int]]) -> None:
    """Useful + lost + stalled = leased workers x time, unless more was lost than this attempt has made."""
    made, at_s, number, attempt = chronicle(), 0.0, 0, 1
    made.take(order(1, 0.0, x=3))
    made.observe(opened(0.0, "xx"))
    for what, seconds, size in history:
        at_s += seconds
        match what:
            case "step":
                number += 1
                made.observe(step(at_s, number, 2, seconds))
            case "again":
                number = max(0, number - size)
                made.observe(opened(at_s, "xx", number))
            case "fail":
                made.observe(closed(at_s, number, Outcome.FAILED))
                made.observe(opened(at_s, "xx", number))
            case _:
                attempt += 1
                made.take(order(attempt, at_s, x=size))
    for report, stay in zip(made.reports(T0 + at_s), made._stays, strict=True):
        until_s = at_s if stay.until_s is None else stay.until_s - T0
        whole = stay.workers * (until_s - (stay.letter.at_s - T0))
        assert stay.useful_s >= -1e-9
        assert stalled(report) == pytest.approx(max(0.0, whole - stay.useful_s - stay.lost_s), abs=1e-6)


def slow(at_s: float, rank: int, *, over: bool = False) -> Straggler:
    return Straggler(at_s=T0 + at_s, attempt=1, rank=rank, node_id="m", ratio=1.8, steps=30, over=over)


def test_what_happened_in_a_run_stands_in_the_newest_report_until_its_end() -> None:
    died = WorkerDied(at_s=T0 + 6, attempt=1, node_id="n", detail="rank 0 was killed by SIGBUS")
    stacks = StacksTaken(at_s=T0 + 6, attempt=1, step=5, num_ranks=4, path="/runs/a/stacks/1.txt")
    told = fed(order(1, 0, n=4), opened(1, "nnnn"), slow(3, 2), slow(4, 1), slow(5, 1, over=True), died, stacks)
    told.observe(closed(6, 5, Outcome.FAILED))
    (report,) = told.reports(T0 + 7)
    kinds = [(note.kind, note.node, note.rank) for note in report.notes]
    assert kinds == [
        (NoteKind.STRAGGLER, "m", 2),
        (NoteKind.STRAGGLER, "m", 1),
        (NoteKind.STRAGGLER_OVER, "m", 1),
        (NoteKind.WORKER_DIED, "n", None),
        (NoteKind.STACKS_TAKEN, "", None),
        (NoteKind.STRAGGLER_OVER, "m", 2),
    ]
    assert len({note.id for note in report.notes}) == 6
    assert report_from_json(json.loads(json.dumps(report_to_json(report)))) == report
    told.take(order(2, 8, n=4))
    assert [len(one.notes) for one in told.reports(T0 + 9)] == [0, 6]


def test_a_slow_stop_is_the_longest_of_the_last_ones_and_a_usual_one_their_median() -> None:
    made = fed(order(1, 0.0, x=2), opened(0.0, "xx"), step(1.0, 1, 2))
    (before,) = made.reports(T0 + 1.0)
    assert before.measured is not None
    assert before.measured.slow_stop_s is None
    at_s, number = 1.0, 1
    stops = ((2.0, Outcome.PLANNED), (9.0, Outcome.PLANNED), (2.0, Outcome.PLANNED), (30.0, Outcome.FAILED))
    for took_s, outcome in stops:
        made.observe(StopAsked(at_s=T0 + at_s, attempt=1, cause=Cause.SHRINK))
        at_s += took_s
        made.observe(closed(at_s, number, outcome))
        made.observe(opened(at_s, "xx", number))
        at_s, number = at_s + 1.0, number + 1
        made.observe(step(at_s, number, 2))
    (report,) = made.reports(T0 + at_s)
    assert report.measured is not None
    # The last one was killed at the end of its grace.
    assert (report.measured.stop_s, report.measured.slow_stop_s) == (2.0, 30.0)
    assert report_from_json(json.loads(json.dumps(report_to_json(report)))) == report


def test_the_next_process_of_a_run_knows_how_long_its_stops_took(tmp_path: Path) -> None:
    asked = StopAsked(at_s=T0 + 2.0, attempt=1, cause=Cause.SHRINK)
    cut_off = StopAsked(at_s=T0 + 20.0, attempt=2, cause=Cause.SHRINK)  # its process was killed, too
    with contextlib.closing(RecordStore(tmp_path, "a")) as store:
        for event in (opened(0.0, "xx"), step(1.0, 1, 2), asked, step(3.0, 2, 2), closed(11.0, 2), cut_off):
            store.append(event)
    made = chronicle()
    made.remember(read_events(tmp_path, steps=False))
    for one in (order(1, 7200.0, x=2), opened(7200.0, "xx"), step(7201.0, 3, 2), closed(7300.0, 3, Outcome.FAILED)):
        made.take(one) if isinstance(one, Letter) else made.observe(one)
    (report,) = made.reports(T0 + 7300.0)
    assert report.measured is not None
    assert (report.measured.stop_s, report.measured.slow_stop_s) == (9.0, 9.0)


def test_a_report_of_an_earlier_version_has_no_notes() -> None:
    old = report_to_json(Report(job="a", attempt=1, phase=Phase.RUNNING))
    del old["notes"]
    assert report_from_json(old).notes == ()


def test_seats_that_were_given_back_are_free_as_soon_as_the_group_has_gone() -> None:
    made = fed(order(1, 0.0, x=2, y=2), opened(0.0, "xxyy"), step(1.0, 1), order(2, 2.0, x=2), step(2.5, 2))
    made.observe(closed(3.0, 2))
    assert [(one.attempt, one.phase) for one in made.reports(T0 + 3.0)] == [(1, Phase.STOPPED), (2, Phase.STARTING)]


def test_an_urgent_stop_is_over_with_its_group_and_another_once_its_state_is_saved() -> None:
    for urgent, phase in ((True, Phase.STOPPED), (False, Phase.RUNNING)):
        stop = Letter(id="a-a1-stop", attempt=1, at_s=T0 + 2.0, stop=True, until_s=T0 + 7.0, urgent=urgent)
        made = fed(order(1, 0.0, x=2), opened(0.0, "xx"), step(1.0, 1, 2), stop, step(2.0, 2, 2), closed(3.0, 2))
        (report,) = made.reports(T0 + 9.0)
        assert report.phase is phase
        assert stalled(report) == pytest.approx(2.0 if urgent else 2 * 7.0)
    made.forget(1)
    made.observe(opened(9.0, "xx", 1))  # what is said after an end that was taken harms nobody
    assert made.finish(Phase.STOPPED, "", T0 + 9.0) == ()
