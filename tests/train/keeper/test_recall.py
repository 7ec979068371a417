"""A keeper that starts again knows what was judged, and a lead that does drops nothing because of it."""

from __future__ import annotations

import pytest

from jobs.train.keeper.recall import Recall
from jobs.train.keeper.values import SnapshotKey, Verdicts
from tests.train.keeper.world import RUN


def verdicts(attempt: int = 0) -> Verdicts:
    return Verdicts(run="r", attempt=attempt, complete=(SnapshotKey(run="r", step=5, attempt=0, world_size=1),))


def test_what_was_saved_is_loaded_for_the_same_attempt_only(tmp_path):
    recall = Recall(tmp_path)
    recall.save(verdicts())
    assert Recall(tmp_path).load("r", 0) == verdicts()
    assert recall.load("r", 1) is None
    recall.forget("r")
    assert recall.load("r", 0) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense"])
def test_an_unreadable_file_is_nothing(tmp_path, content):
    (tmp_path / "r.verdicts").write_bytes(content)
    assert Recall(tmp_path).load("r", 0) is None


def test_a_lead_that_starts_again_does_not_drop_what_it_has_not_heard_of_yet(worlds):
    world = worlds()
    plan = world.begin()
    for step in (20, 40, 60):
        world.snapshot(world.key(step))
        if step == 20:
            world.settle()
        for keeper in world.keepers.values():
            keeper.mirror.pump = lambda: None  # 40 and 60 stay where they are: complete, not safe
    world.settle()
    world.kill_keeper("a")
    world.boot("a").begin_attempt(plan)
    world.keepers["a"].reporter.pump()  # its own report alone, in which only step 20 is nearly whole
    world.keepers["a"].reporter.pump()
    assert [key.step for key in world.keepers["a"].runs.get(RUN).verdicts.complete] == [40, 60]
    world.settle()
    assert [world.steps(name) for name in "abc"] == [[20, 40, 60]] * 3
