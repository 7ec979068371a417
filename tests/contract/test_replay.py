"""Playing recorded nodes: what is read, when what is done, and what a run's events add up to. No Ray in here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.adapters.ray_cluster import LocalNode, NodeSize
from orchestrator.adapters.ray_train.events import AttemptOpened, Cause, Event, StepDone
from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.adapters.replay import NodeEvent, Player, load_node_events, share_of
from orchestrator.adapters.replay.outcome import compare, recoveries
from orchestrator.adapters.replay.session import Director, Replaying, compressed, replay
from orchestrator.spec import TrainJob, load_text
from orchestrator.spec.errors import ExitCode, UserError


def write(folder: Path, *rows: str, header: str = "t_ms,event,node") -> Path:
    path = folder / "events.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_recording_is_read_and_an_even_share_of_its_nodes_kept(tmp_path: Path) -> None:
    rows = ["0,add,a", "0,add,b", "500,add,c", "1000,remove,a", "2000,remove,c", "3000,add,a"]
    events = load_node_events(write(tmp_path, *rows))
    assert [(e.at_s, e.event, e.node) for e in share_of(events, share=2)] == [
        (0.0, "add", "a"),
        (0.5, "add", "c"),
        (1.0, "remove", "a"),
        (2.0, "remove", "c"),
        (3.0, "add", "a"),
    ]
    assert [e.node for e in share_of(events, share=2, remainder=1)] == ["b"]
    assert len(share_of(events, share=1, seconds=1.0)) == 4


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        (["5,add,a", "4,add,b"], 3, "column 't_ms': 4 is earlier"),
        (["-5,add,a"], 2, "column 't_ms': '-5' is no time"),
        (["0,came,a"], 2, "column 'event': 'came' is neither"),
        (["0,add,a", "1,add,a"], 3, "column 'node': 'a' comes, and is there already"),
        (["0,remove,a"], 2, "column 'node': 'a' goes, and is not there"),
        (["0,add,"], 2, "column 'node': a node needs a name"),
        (["0,add"], 2, "2 cells"),
        ([], None, "no events"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(
    tmp_path: Path, rows: list[str], line: int | None, words: str
) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(UserError) as caught:
        load_node_events(path)
    assert caught.value.code is ExitCode.INVALID
    assert caught.value.problem.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert words in caught.value.problem


def test_another_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be 't_ms,event,node'"):
        load_node_events(write(tmp_path, header="time,event,node"))


@dataclass
class FakeNodes:
    """A cluster that only writes down what is done to it."""

    done: list[str] = field(default_factory=list)

    def add_node(self, size: NodeSize | None = None) -> LocalNode:
        name = f"n{sum(line.startswith('add') for line in self.done)}"
        self.done.append(f"add {name}")
        return LocalNode(node_id=name, folder=Path(), handle=None)

    def drain_node(self, node_id: str, *, deadline_s: float, reason: str = "") -> None:
        self.done.append(f"drain {node_id} {deadline_s:g}")

    def kill_node(self, node_id: str) -> None:
        self.done.append(f"kill {node_id}")


def events_of(*rows: tuple[float, str, str]) -> list[NodeEvent]:
    return [NodeEvent(at_s=at_s, event=event, node=node) for at_s, event, node in rows]


RECORDED = events_of((0, "add", "a"), (0, "add", "b"), (400, "remove", "a"), (400, "add", "c"), (480, "remove", "c"))


def test_a_player_announces_ahead_and_then_kills_and_keeps_the_order_of_a_moment() -> None:
    nodes = FakeNodes()
    player = Player(nodes, NodeSize(), RECORDED, speed=4.0)
    player.start()
    assert nodes.done == ["add n0", "add n1"]
    player.play_due(69.0)
    assert nodes.done[2:] == []
    player.play_due(70.0)
    assert nodes.done[2:] == ["drain n0 30"]
    assert player.next_at_s == 90.0
    player.play_due(1000.0)
    assert nodes.done[3:] == ["kill n0", "add n2", "kill n2"]  # c's notice was due before c was there
    assert player.played == {"add": 3, "announce": 1, "remove": 2}
    assert player.next_at_s == math.inf


def test_without_notice_nodes_are_killed_without_a_word() -> None:
    nodes = FakeNodes()
    player = Player(nodes, NodeSize(), RECORDED, speed=4.0, notice_s=0.0)
    player.start()
    player.play_due(1000.0)
    assert not [line for line in nodes.done if line.startswith("drain")]


def test_playing_for_a_time_sleeps_from_one_event_to_the_next_and_stops_on_time() -> None:
    clock = [0.0]
    nodes = FakeNodes()
    player = Player(nodes, NodeSize(), RECORDED, speed=4.0)
    player.start()
    player.play(100.5, clock=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s))
    assert clock[0] == 100.5
    assert nodes.done[-1] == "add n2"


def step(number: int, *, attempt: int = 1, size: int = 2, loss: float = 1.0, at_s: float = 0.0) -> StepDone:
    values = {"lr": 0.1, "grad_norm": 1.0, "num_tokens": 1, "step_s": 1.0, "ledger": (number, number)}
    return StepDone(at_s=at_s, attempt=attempt, step=number, world_size=size, loss=loss, **values)  # type: ignore[arg-type]


def opened(attempt: int, cause: Cause, size: int) -> AttemptOpened:
    return AttemptOpened(at_s=0.0, attempt=attempt, cause=cause, world_size=size, start_step=0)


def test_a_recovery_lasts_from_the_last_step_before_to_the_first_after_and_counts_what_is_made_again() -> None:
    events: list[Event] = [
        opened(1, Cause.START, 2),
        step(1, at_s=1.0),
        step(2, at_s=2.0),
        opened(2, Cause.GROW, 3),
        step(3, attempt=2, size=3, at_s=5.0),
        opened(3, Cause.NODE_LOSS, 2),  # this one made no step
        opened(4, Cause.START_FAILURE, 1),
        step(2, attempt=4, size=1, at_s=12.0),
    ]
    found = recoveries(events)
    assert [(r.cause, r.from_size, r.to_size, r.recovery_s, r.steps_lost) for r in found] == [
        (Cause.GROW, 2, 3, 3.0, 0),
        (Cause.NODE_LOSS, 3, 1, 7.0, 2),
    ]


def test_curves_are_compared_at_the_last_time_each_step_was_made() -> None:
    played: list[Event] = [step(1, loss=2.0), step(2, loss=9.0), step(2, loss=1.0), step(3, loss=1.0)]
    curve = compare(played, [step(1, loss=2.0), step(2, loss=1.1)])
    assert (curve.steps, curve.samples_differ) == (2, 0)
    assert curve.max_rel_diff == pytest.approx(0.1 / 1.1)


@pytest.mark.parametrize(("one", "other", "apart"), [(math.nan, 1.0, math.inf), (math.nan, math.nan, 0.0)])
def test_a_loss_that_is_no_number_in_one_run_only_is_infinitely_far(one: float, other: float, apart: float) -> None:
    assert compare([step(1, loss=one)], [step(1, loss=other)]).max_rel_diff == apart


def test_a_recordings_time_begins_with_the_first_step_and_its_end_is_a_wish_to_stop() -> None:
    clock, wish, nodes = [100.0], [0], FakeNodes()
    player = Player(nodes, NodeSize(), RECORDED, speed=4.0)
    player.start()
    director = Director(player, 95.0, lambda: wish[0], lambda: clock[0])
    clock[0] = 500.0
    assert director() == 0
    assert len(nodes.done) == 2
    director.on_event(step(1))
    clock[0] = 570.0
    assert director() == 0
    assert nodes.done[-1] == "drain n0 30"
    clock[0] = 595.0
    assert director() == 1
    wish[0] = 2
    assert director() == 2


def test_restraint_is_compressed_like_everything_else() -> None:
    habits = compressed(HABITS, 10.0)
    assert (habits.stay_s, habits.rules.dwell_s) == (HABITS.stay_s / 10, HABITS.rules.dwell_s / 10)
    assert habits.rules.margin == HABITS.rules.margin


JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: small}
spec:
  workers: {min: MIN, max: 4, resources: {CPU: 1GPU}}
  task: jobs.models.gpt:task
  data: {dataset: python-stdlib@latest}
  batch: {global_batch_size: 8, micro_batch_size: 1}
  steps: 10
"""


@pytest.mark.parametrize(
    ("change", "words"), [({"MIN": "3"}, "3 workers, and 2 of the played nodes"), ({"GPU": ", GPU: 1"}, "have no GPUs")]
)
def test_a_job_that_the_played_nodes_cannot_hold_is_refused_before_anything_starts(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    text = JOB
    for mark, with_ in ({"MIN": "2", "GPU": ""} | change).items():
        text = text.replace(mark, with_)
    (job,) = load_text(text, where="job")
    assert isinstance(job, TrainJob)
    with pytest.raises(UserError, match=words) as caught:
        replay(job, tmp_path, Replaying(events=RECORDED, seconds=100.0, speed=4.0))
    assert caught.value.code is ExitCode.NEVER
    assert list(tmp_path.iterdir()) == []
