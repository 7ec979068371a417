"""What becomes of a running endpoint when its file or its model changes: rolled out, waited for, taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.endpoints.life import Life
from orchestrator.adapters.endpoints.process import Keeper
from orchestrator.adapters.endpoints.rollout import Progress
from orchestrator.adapters.endpoints.sight import read_sight
from orchestrator.adapters.ray_serve.seen import Count
from tests.contract.endpoint_fakes import Fake, World, document, letter


def begun(world: World, fake: Fake) -> Keeper:
    """An endpoint of two replicas that answer."""
    world.folder.write_order(letter(1, 2))
    keeper = world.keeper(fake)
    keeper.begin()
    fake.now = Count(answering=2, present=2)
    return keeper


def test_a_file_that_has_changed_is_rolled_out_where_it_stands(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake()
    keeper = begun(world, fake)
    world.tick(keeper)
    assert read_sight(world.folder.path).rollout is None
    wanted = world.wants(model="m@2")
    world.tick(keeper)
    assert [one.document for one in fake.rolled] == [wanted]
    fake.going = Progress(fresh=1, wanted=2)
    world.tick(keeper)
    assert world.change() == ("rolling", "1 of 2 replicas are what the file says")
    assert read_sight(world.folder.path).extra == 1  # whoever gives devices out knows of the one that starts first
    fake.going = Progress(fresh=2, wanted=2, settled=True)
    world.tick(keeper)
    assert world.change()[0] == "done"
    assert read_sight(world.folder.path).extra == 0
    world.folder.write_job(wanted, {"ray": "elsewhere"})  # written again, and the same
    world.tick(keeper)
    assert len(fake.rolled) == 1


@pytest.mark.parametrize("dies_before_it_is_carried_out", [False, True])
def test_whoever_comes_after_a_kill_in_a_roll_out_finishes_it(
    tmp_path: Path, dies_before_it_is_carried_out: bool
) -> None:
    world, first, second = World(tmp_path), Fake(), Fake()
    keeper = begun(world, first)
    if dies_before_it_is_carried_out:
        first.roll = _die  # type: ignore[method-assign]
    wanted = world.wants(model="m@2")
    if dies_before_it_is_carried_out:
        with pytest.raises(SystemExit):
            keeper.tick(())
    else:
        world.tick(keeper)
    world.folder.write_order(letter(2, 2))
    heir = world.keeper(second)
    heir.begin()
    assert [one.document for one in second.begun] == [wanted]
    second.now, second.going = first.now, Progress(fresh=1, wanted=2)
    world.tick(heir)
    assert world.change()[0] == "rolling"
    second.going = Progress(fresh=0, wanted=2, failed="it does not start")
    world.tick(heir)  # and it still knows what to go back to
    assert [one.document for one in second.rolled] == [document()]


def _die(life: Life) -> None:
    raise SystemExit


def test_a_file_that_changed_while_nobody_was_there_is_rolled_out(tmp_path: Path) -> None:
    world, first, second = World(tmp_path), Fake(), Fake()
    begun(world, first)
    wanted = world.wants(model="m@2")
    world.folder.write_order(letter(2, 2))
    world.keeper(second).begin()
    assert second.begun == [first.made]
    assert [one.document for one in second.rolled] == [wanted]


def test_replicas_that_do_not_start_leave_what_was_before_and_are_not_tried_again(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake()
    keeper = begun(world, fake)
    world.wants(model="m@2")
    world.tick(keeper)
    fake.going = Progress(fresh=0, wanted=2, failed="no such device")
    fake.now = Count(answering=2, present=3, failed="no such device")
    world.tick(keeper)
    assert world.change() == ("refused", "no such device")
    assert [one.ref for one in fake.rolled] == ["m@2", "m@1"]
    fake.now, fake.going = Count(answering=2, present=2), Progress(fresh=2, wanted=2, settled=True)
    for _ in range(3):
        world.tick(keeper)
    keeper.look_around()
    assert world.change() == ("refused", "no such device")
    fake.going = Progress(fresh=0, wanted=2)
    world.wants(model="m@3")
    world.tick(keeper)
    assert [one.ref for one in fake.rolled] == ["m@2", "m@1", "m@3"]
    assert world.change()[0] == "rolling"


def test_a_version_that_nobody_has_registered_is_waited_for_beside_what_answers(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake(unknown={"m@2"})
    keeper = begun(world, fake)
    world.wants(model="m@2")
    world.tick(keeper)
    assert world.change() == ("refused", "there is no m@2")
    fake.unknown.clear()
    keeper.look_around()
    assert [one.ref for one in fake.rolled] == ["m@2"]


def test_one_replica_waits_for_a_device_on_which_the_next_can_start(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake(room=False)
    keeper = begun(world, fake)
    world.wants(model="m@2")
    world.tick(keeper)
    assert world.change()[0] == "waiting"
    assert fake.rolled == []
    fake.room = True
    keeper.look_around()
    assert [one.ref for one in fake.rolled] == ["m@2"]


def test_a_file_that_is_taken_back_while_it_is_rolled_out_is_what_replicas_become(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake()
    keeper = begun(world, fake)
    world.wants(model="m@2")
    world.tick(keeper)
    world.wants()
    world.tick(keeper)
    assert [one.ref for one in fake.rolled] == ["m@2", "m@1"]
    fake.going = Progress(fresh=2, wanted=2, settled=True)
    world.tick(keeper)
    assert world.change()[0] == "done"


def test_another_version_that_running_replicas_cannot_load_is_rolled_out_once(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake()
    keeper = begun(world, fake)
    fake.newer = Life(document=document(), built="m@9", ref="m@9")
    keeper.look_around()
    fake.going = Progress(fresh=0, wanted=2, failed="it does not start")
    world.tick(keeper)
    fake.going = Progress(fresh=2, wanted=2, settled=True)
    world.tick(keeper)
    keeper.look_around()
    assert [one.ref for one in fake.rolled] == ["m@9", "m@1"]


def test_what_answers_and_why_a_canary_went_are_kept_for_whoever_comes_next(tmp_path: Path) -> None:
    world, first, second = World(tmp_path), Fake(), Fake()
    keeper = begun(world, first)
    first.made = replace(first.life, ref="m@5", taken_back="errors")
    keeper.look_around()
    world.folder.write_order(letter(2, 2))
    world.keeper(second).begin()
    assert second.begun == [first.made]
