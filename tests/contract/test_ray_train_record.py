"""The run's record: every held worker-second is booked once, whatever happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    Event,
    Outcome,
    Part,
    StacksTaken,
    StallPart,
    Status,
    StatusChanged,
    StepDone,
    Straggler,
    WorkerDied,
    from_json,
    to_json,
)
from orchestrator.adapters.ray_train.record import RunRecord
from orchestrator.adapters.ray_train.record_store import RecordStore, load_events, read_events


def opened(at_s: float, attempt: int, cause: Cause, size: int, start_step: int) -> AttemptOpened:
    return AttemptOpened(at_s=at_s, attempt=attempt, cause=cause, world_size=size, start_step=start_step)


def step(at_s: float, attempt: int, number: int, size: int, step_s: float = 1.0) -> StepDone:
    return StepDone(
        at_s=at_s,
        attempt=attempt,
        step=number,
        world_size=size,
        loss=1.0 / number,
        lr=1e-3,
        grad_norm=1.0,
        num_tokens=10,
        step_s=step_s,
        ledger=(number, 2 * number),
    )


def closed(at_s: float, attempt: int, outcome: Outcome, cause: Cause | None, steps: int = 0) -> AttemptClosed:
    return AttemptClosed(at_s=at_s, attempt=attempt, outcome=outcome, cause=cause, step=steps)


GROWTH: list[Event] = [
    opened(0, 1, Cause.START, 2, 0),
    StallPart(at_s=3, attempt=1, part=Part.IMPORTS, seconds=2.0),
    step(4, 1, 1, 2),
    step(5, 1, 2, 2),
    closed(6, 1, Outcome.PLANNED, Cause.GROW, 2),
    opened(6, 2, Cause.GROW, 4, 2),
    step(9, 2, 3, 4),
    closed(9, 2, Outcome.FINISHED, None, 3),
]


def test_planned_growth_loses_nothing_and_its_stall_is_charged_to_it() -> None:
    record = RunRecord.of("r", GROWTH)
    seconds = record.worker_seconds()
    assert record.steps_done == 3
    assert not record.lost_steps
    assert seconds["useful"] == 2 * 2 + 4 * 1
    assert seconds["stalled"] == {"start": 2 * 3, "grow": 2 * 1 + 4 * 2}
    assert record.to_json()["planned_steps_lost"] == 0


def test_steps_made_again_are_lost_to_the_cause_of_the_restart() -> None:
    events = [
        opened(0, 1, Cause.START, 2, 0),
        *(step(number, 1, number, 2) for number in (1, 2, 3)),
        closed(4, 1, Outcome.FAILED, Cause.NODE_LOSS),
        opened(4, 2, Cause.NODE_LOSS, 2, 1),
        step(6, 2, 2, 2),
    ]
    record = RunRecord.of("r", events)
    assert record.lost_steps == {Cause.NODE_LOSS: 2}
    assert record.worker_seconds()["lost"] == {"node_loss": 4.0}
    assert list(record.steps.losses()) == [(1, 1.0), (2, 0.5)]
    assert record.to_json()["loss"] == 0.5


def test_last_words_of_a_closed_attempt_change_nothing() -> None:
    record = RunRecord.of("r", [*GROWTH, step(10, 1, 3, 2)])
    made = record.steps.get(3)
    assert made is not None
    assert made.attempt == 2


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Any sequence of attempts with any number of steps, gaps and restarts."""
    events: list[Event] = []
    now, done = 0.0, 0
    gap = st.floats(0, 5, allow_nan=False)
    for attempt in range(1, draw(st.integers(1, 5)) + 1):
        now += draw(gap)
        size = draw(st.integers(1, 8))
        done = draw(st.integers(0, done))
        events.append(opened(now, attempt, draw(st.sampled_from(Cause)), size, done))
        now += draw(gap)
        for _ in range(draw(st.integers(0, 4))):
            now += draw(gap)
            done += 1
            events.append(step(now, attempt, done, size, step_s=draw(gap)))
        now += draw(gap)
        events.append(closed(now, attempt, Outcome.FAILED, draw(st.sampled_from(Cause))))
    return events


@given(histories())
def test_held_time_is_useful_lost_or_stalled_and_nothing_else(events: list[Event]) -> None:
    seconds = RunRecord.of("r", events).worker_seconds()
    parts = seconds["useful"] + sum(seconds["lost"].values()) + sum(seconds["stalled"].values())
    assert parts == pytest.approx(seconds["held"], abs=1e-6)
    assert min([seconds["useful"], *seconds["lost"].values(), *seconds["stalled"].values()]) >= -1e-9


def test_events_survive_json_and_those_that_only_tell_change_no_sums() -> None:
    telling = [
        StatusChanged(at_s=1, status=Status.RUNNING, detail=""),
        StacksTaken(at_s=1, attempt=1, step=2, num_ranks=3, path="/f", detail="why"),
        Straggler(at_s=1, attempt=1, rank=2, node_id="n", ratio=1.8, steps=30),
        WorkerDied(at_s=1, attempt=1, node_id="n", detail="killed"),
    ]
    told = RunRecord.of("r", [*GROWTH, *telling]).worker_seconds()
    assert told == RunRecord.of("r", GROWTH).worker_seconds()
    for event in [*GROWTH, *telling]:
        assert from_json(json.loads(json.dumps(to_json(event)))) == event


@pytest.mark.parametrize("data", [{}, {"kind": "Nonsense"}, {"kind": "Remark", "at_s": 1.0}])
def test_a_line_that_is_no_event_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"event"):
        from_json(data)


@given(histories())
def test_the_surviving_steps_are_those_that_a_plain_dictionary_keeps(events: list[Event]) -> None:
    plain: dict[int, float] = {}
    number = 0
    for event in events:
        if isinstance(event, AttemptOpened):
            plain = {step: loss for step, loss in plain.items() if step <= event.start_step}
            number = event.attempt
        elif isinstance(event, StepDone) and event.attempt == number:
            plain = {step: loss for step, loss in plain.items() if step < event.step} | {event.step: event.loss}
    record = RunRecord.of("r", events)
    assert dict(record.steps.losses()) == plain
    assert record.steps.num_tokens == 10 * len(plain) == record.to_json()["tokens"]
    assert record.steps.get(99) is None


def test_the_record_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, "r")
    store.append(opened(0, 1, Cause.START, 2, 0))
    sizes = []
    for number in range(1, 1001):
        store.append(step(float(number), 1, number, 2))
        if number in (100, 1000):
            store.write_record()
            sizes.append((tmp_path / "record.json").stat().st_size)
    store.close()
    assert sizes[1] < sizes[0] + 40  # more digits, no more entries
    assert dict(RunRecord.of("r", read_events(tmp_path)).steps.losses())[777] == 1 / 777


@pytest.mark.parametrize("torn", ["x", "x" * 200_000, '{"kind": "StepDo'])
def test_an_append_that_was_killed_at_any_length_costs_its_own_line_only(tmp_path: Path, torn: str) -> None:
    store = RecordStore(tmp_path, "r")
    for event in GROWTH:
        store.append(event)
    store.close()
    whole = (tmp_path / "events.jsonl").read_bytes()
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write(torn)
    assert load_events(tmp_path) == GROWTH
    RecordStore(tmp_path, "r").close()
    assert (tmp_path / "events.jsonl").read_bytes() == whole


def test_a_log_that_is_one_torn_line_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("x" * 100_000)
    RecordStore(tmp_path, "r").close()
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_a_torn_last_line_is_cut_and_the_log_goes_on(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, "r")
    for event in GROWTH[:3]:
        store.append(event)
    store.close()
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"kind": "StepDo')
    again = RecordStore(tmp_path, "r")
    for event in GROWTH[3:]:
        again.append(event)
    again.close()
    assert load_events(tmp_path) == GROWTH
    assert json.loads((tmp_path / "record.json").read_text())["steps"] == 3
