"""What a run tells of its inside: where ranks stood before they were killed, who is slow, who died where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.train.messages import Pace, encode
from orchestrator.adapters.ray_train.events import AttemptClosed, StacksTaken, Straggler
from orchestrator.adapters.ray_train.explain import deaths
from orchestrator.adapters.ray_train.journal import OpenAttempt
from orchestrator.adapters.ray_train.protocol import GroupIdle, Leaving, Left, Said, StacksOf
from orchestrator.adapters.ray_train.sizes import Size
from orchestrator.adapters.ray_train.stack_files import KEPT_FILES, StackFiles
from orchestrator.adapters.ray_train.stacks import RankStack
from tests.contract.ray_train_fakes import plan
from tests.contract.ray_train_world import World


def lost(kind: str, worker: int) -> Left:
    return Left(attempt=1, worker=worker, node_id="n", at_s=float(worker), how=Leaving.FAILED, kind=kind, detail=kind)


def test_stacks_that_came_before_the_end_of_a_group_are_kept_and_told_first(tmp_path: Path) -> None:
    world = World(stacks=StackFiles(tmp_path / "stacks"))
    world.idle()
    world.start()
    stack = RankStack(rank=1, pid=7, how="py-spy", text="Thread 7: waits")
    said = StacksOf(attempt=1, worker=1, node_id="a" * 40, stacks=(stack,))
    world.driver.read([said, replace(lost("hang", 0), attempt=1)])
    world.idle()
    (taken,) = world.of(StacksTaken)
    assert isinstance(taken, StacksTaken)
    assert world.events.index(taken) < next(at for at, one in enumerate(world.events) if isinstance(one, AttemptClosed))
    text = Path(taken.path).read_text()
    assert f"=== rank 1 on node {'a' * 12}, in step {taken.step + 1}, process 7 (py-spy)" in text
    assert "Thread 7: waits" in text
    assert Path(taken.path).stat().st_mode & 0o777 == 0o600


def test_only_the_newest_stacks_are_kept_and_a_full_disk_fails_nothing(tmp_path: Path) -> None:
    files = StackFiles(tmp_path / "stacks")
    for number in range(KEPT_FILES + 3):
        assert files.keep(1, 0, [], 100.0 + number, "") is not None
    assert len(list((tmp_path / "stacks").iterdir())) == KEPT_FILES
    (tmp_path / "file").touch()
    assert StackFiles(tmp_path / "file").keep(1, 0, [], 100.0, "") is None


def speaks(world: World, rank: int, number: int, seconds: float) -> Said:
    return Said(attempt=1, rank=rank, at_s=world.now_s, line=encode(Pace(step=number, passes=10, seconds=seconds)))


def test_a_rank_that_holds_the_others_up_is_named_and_let_go() -> None:
    world = World(size=Size(world_size=3, nodes=("n", "m", "m")))
    world.idle()
    world.start()
    for number in range(1, 9):
        slow_s = 9.0 if number < 5 else 5.0
        for rank, seconds in ((2, slow_s), (0, 5.0), (1, 5.5)):
            world.driver.read([speaks(world, rank, 10 * number, seconds)])
    named = [one for one in world.of(Straggler) if isinstance(one, Straggler)]
    assert [(one.rank, one.node_id, one.steps, one.over) for one in named] == [(2, "m", 30, False), (2, "m", 30, True)]
    assert named[0].ratio == pytest.approx(9.0 / 5.5)


def test_a_rank_that_speaks_twice_in_a_round_is_counted_whole() -> None:
    world = World()
    world.idle()
    world.start()
    for number in range(1, 4):
        world.driver.read([speaks(world, 0, number, 1.0), speaks(world, 0, number, 3.0)])
        world.driver.read([speaks(world, 1, number, 1.0)])
    (named,) = world.of(Straggler)
    assert isinstance(named, Straggler)
    assert (named.rank, named.ratio) == (0, pytest.approx(2.0))


@pytest.mark.parametrize(
    ("kinds", "silent", "lost_nodes", "died"),
    [
        (["killed", "lost_peer"], (), (), ["n"]),
        (["user_code", "lost_peer"], (), (), []),
        (["hang"], (), (), []),
        ([], ("m",), (), ["m"]),
        (["killed"], ("n",), ("n",), []),
    ],
    ids=["by-itself", "the-jobs-own-code", "a-hang", "silent", "with-its-node"],
)
def test_deaths_are_told_of_nodes_that_go_on(
    kinds: list[str], silent: tuple[str, ...], lost_nodes: tuple[str, ...], died: list[str]
) -> None:
    attempt = OpenAttempt(plan=plan(), opened_at_s=0.0)
    attempt.left = {worker: lost(kind, worker) for worker, kind in enumerate(kinds)}
    found = list(deaths(attempt, GroupIdle(at_s=1.0, silent_nodes=silent), lost_nodes))
    assert [one.node_id for one in found] == died
