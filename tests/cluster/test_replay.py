"""A handful of recorded nodes on real Ray while a job trains: it follows them, and its loss is that of a fixed size."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.adapters.ray_train.events import AttemptOpened, Event, Status
from orchestrator.adapters.replay import NodeEvent
from orchestrator.adapters.replay.session import Replaying, replay
from tests.cluster.ray_train_runs import EAGER, FAST, ROOT, make_job, set_pace

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(280)]

STEPS = 45
UNHURRIED = 0.5  # seconds a pass: the job must not end before its nodes have changed
# Two nodes; a third comes, and one of the first is announced to go.
RECORDED = [
    NodeEvent(at_s=0.0, event="add", node="a"),
    NodeEvent(at_s=0.0, event="add", node="b"),
    NodeEvent(at_s=20.0, event="add", node="c"),
    NodeEvent(at_s=200.0, event="remove", node="a"),
]


def test_a_job_follows_recorded_nodes_and_learns_the_same(tmp_path: Path) -> None:
    pack(ROOT / "orchestrator", name="corpus", home=tmp_path)
    set_pace(UNHURRIED)
    sizes: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, AttemptOpened):
            sizes.append(event.world_size)
            if len(sizes) > 1 and sizes[-1] <= sizes[-2]:  # a node has left: what is to be seen was seen
                set_pace(FAST)

    how = Replaying(events=RECORDED, seconds=86_400.0, speed=20.0, notice_s=40.0, habits=EAGER)
    done = replay(make_job("replayed", low=1, high=3, steps=STEPS), tmp_path, how, on_event=on_event)
    assert done.run.status is Status.SUCCEEDED, done.run.detail
    assert done.played == {"add": 3, "announce": 1, "remove": 1}
    assert done.recoveries, "a node left, so the group must have changed"
    assert sum(recovery.steps_lost for recovery in done.recoveries) == done.steps_lost
    assert done.curve is not None
    assert (done.curve.steps, done.curve.samples_differ) == (STEPS, 0)
    assert done.curve.max_rel_diff <= 1e-5
    assert not done.interrupted
