"""A handful of recorded nodes on real Ray while a job trains: it follows them, and its loss is that of a fixed size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.adapters.ray_train.events import Event, Status, StepDone
from orchestrator.adapters.replay import NodeEvent
from orchestrator.adapters.replay.session import Replaying, replay
from tests.cluster.ray_train_runs import EAGER, FAST, ROOT, STEADY, make_job, set_pace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

# Two nodes; a third comes, one of the first is announced to go, another is there to the end.
RECORDED = [
    NodeEvent(at_s=0.0, event="add", node="a"),
    NodeEvent(at_s=0.0, event="add", node="b"),
    NodeEvent(at_s=60.0, event="add", node="c"),
    NodeEvent(at_s=900.0, event="remove", node="a"),
]


def test_a_job_follows_recorded_nodes_and_learns_the_same(tmp_path: Path) -> None:
    pack(ROOT / "orchestrator", name="corpus", home=tmp_path)
    set_pace(STEADY)
    events: list[Event] = []
    how = Replaying(events=RECORDED, seconds=1500.0, speed=60.0, habits=replace(EAGER, stay_s=600.0))
    done = replay(
        make_job("replayed", low=1, high=3, steps=100_000),
        tmp_path,
        how,
        on_event=events.append,
        say=lambda line: set_pace(FAST),
    )
    assert done.run.status is Status.PAUSED, done.run.detail
    assert done.played == {"add": 3, "announce": 1, "remove": 1}
    assert {event.world_size for event in events if isinstance(event, StepDone)} >= {2}
    assert done.recoveries, "a node left, so the group must have changed"
    assert sum(recovery.steps_lost for recovery in done.recoveries) == done.steps_lost
    assert done.curve is not None
    assert done.curve.steps == done.run.steps > 0
    assert done.curve.samples_differ == 0
    assert done.curve.max_rel_diff <= 1e-5
    assert not done.interrupted
