"""Keepers of several nodes together: complete, mirrored, safe, kept, dropped, restored."""

from __future__ import annotations

import pytest

from jobs.train import wire
from jobs.train.keeper.judge import Source, choose_source
from jobs.train.keeper.rank_service import RefusedError
from jobs.train.keeper.restore import gather, plan_restore
from jobs.train.keeper.values import PartKey
from tests.train.keeper.world import RUN


def test_a_sealed_snapshot_becomes_safe_on_every_node(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20))
    world.settle()
    assert [keeper.safe_step(RUN) for keeper in world.keepers.values()] == [20, 20, 20]
    copies = [part.key.rank for keeper in world.keepers.values() for part in keeper.inventory(RUN).held]
    assert sorted(copies) == [0, 0, 1, 1, 2, 2]


def test_a_snapshot_that_lacks_a_part_is_neither_complete_nor_safe(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20), range(2))
    world.settle()
    status = world.keepers["a"].status(RUN)
    assert (status.complete, status.safe) == (-1, -1)


def test_the_two_newest_complete_snapshots_are_kept(worlds):
    world = worlds()
    world.begin()
    for step in (20, 40, 60, 80):
        world.snapshot(world.key(step))
        world.settle()
    assert [world.steps(name) for name in "abc"] == [[60, 80]] * 3


def test_segments_are_reused_so_memory_stops_growing(worlds):
    world = worlds()
    world.begin()
    used = []
    for step in range(20, 200, 20):
        world.snapshot(world.key(step))
        world.settle()
        used.append([keeper.store.used_bytes for keeper in world.keepers.values()])
    assert used[3:] == [used[2]] * len(used[3:])
    assert used[2] == [3 * 2 * 256] * 3  # three slots, own and mirrored, 200 bytes in grains of 128


def test_after_a_node_is_lost_survivors_have_every_part(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20))
    world.settle()
    for lost in "abc":
        survivors = [name for name in "abc" if name != lost]
        choice = choose_source(RUN, gather(world.network, survivors, RUN), None)
        assert (choice.source, choice.step) == (Source.KEEPERS, 20)


def test_survivors_that_miss_a_part_fall_back_to_the_older_snapshot_and_say_so(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20))
    world.settle()
    world.snapshot(world.key(40))  # not mirrored yet
    world.kill_node("b")
    plan = plan_restore(world.network, "abc", RUN)
    assert (plan.source, plan.step) == (Source.KEEPERS, 20)
    assert plan.detail == (
        "continues after step 20 from the keepers of 2 nodes; the snapshot of step 40 lacks the parts of ranks 1 and "
        "was passed over"
    )


def test_survivors_that_miss_every_snapshot_fall_back_to_storage(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(40))
    world.kill_node("b")
    plan = plan_restore(world.network, "abc", RUN, storage_step=30)
    assert (plan.source, plan.step, plan.manifest) == (Source.STORAGE, 30, "")


def test_a_new_attempt_of_another_size_keeps_the_restored_snapshot_and_makes_it_safe_again(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20))
    world.settle()
    world.kill_node("c")
    world.begin(attempt=1, world_size=2, kept=(world.key(20),))
    world.settle()
    assert world.keepers["a"].safe_step(RUN) == 20, "the survivors copy what only one of them has"
    for step in (40, 60):
        world.snapshot(world.key(step, attempt=1, world_size=2))
        world.settle()
    assert [world.steps(name) for name in "ab"] == [[40, 60]] * 2


def test_parts_of_two_attempts_never_make_up_one_snapshot(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20), range(2))
    world.begin(attempt=1)
    world.snapshot(world.key(20, attempt=1), range(2, 3))
    world.settle()
    assert world.keepers["a"].status(RUN).complete == -1
    assert plan_restore(world.network, "abc", RUN).source is Source.NOTHING


def test_a_rank_of_an_earlier_attempt_is_refused(worlds):
    world = worlds()
    world.begin(attempt=1)
    with pytest.raises(ValueError, match="attempt 0 of run is over"):
        world.begin(attempt=0)
    answer = world.keepers["a"].rank_service.answer(
        {"op": "reserve", "key": wire.dump(PartKey(snapshot=world.key(1), rank=0)).decode(), "nbytes": 5, "count": 1},
        object(),
    )
    assert answer["error"] == "unknown_run"


def test_a_snapshot_without_room_is_skipped_and_training_goes_on(worlds):
    world = worlds(limit_bytes=2 * 2 * 256)  # two slots where three are needed
    world.begin()
    for step in (20, 40):
        world.snapshot(world.key(step))
        world.settle()
    with pytest.raises(RefusedError, match="step 60 is not kept: no room for 256 bytes"):
        world.snapshot(world.key(60))
    world.settle()
    assert [world.steps(name) for name in "abc"] == [[20, 40]] * 3
    with pytest.raises(RefusedError, match="no room"):
        world.snapshot(world.key(60), range(1, 3))


def test_the_final_snapshot_takes_the_room_of_older_ones(worlds):
    world = worlds(limit_bytes=2 * 2 * 256)
    world.begin()
    world.snapshot(world.key(20))
    world.settle()
    world.snapshot(world.key(40))
    world.settle()
    with pytest.raises(RefusedError):
        world.snapshot(world.key(60))
    world.settle()
    world.snapshot(world.key(61), final=True)
    world.settle()
    assert world.keepers["a"].safe_step(RUN) == 61


def test_the_newest_safe_snapshot_outlives_newer_ones_that_no_peer_has_yet(worlds):
    world = worlds(nodes=2)
    world.begin(world_size=2)
    world.snapshot(world.key(20, world_size=2))
    world.settle()
    for name in "ab":
        world.keepers[name].mirror.pump = lambda: None  # the network between them is slow
    for step in (40, 60):
        world.snapshot(world.key(step, world_size=2))
        world.settle()
    assert world.keepers["a"].status(RUN).complete == 60
    world.kill_node("b")
    assert plan_restore(world.network, "ab", RUN).step == 20


def test_a_snapshot_that_lost_a_part_with_its_keeper_does_not_stop_later_ones(worlds):
    world = worlds(limit_bytes=3 * 2 * 256)
    world.begin()
    for step in (20, 40):
        world.snapshot(world.key(step))
        world.settle()
    world.snapshot(world.key(60), range(2))  # rank 2's keeper died in the middle of it
    world.settle()
    with pytest.raises(RefusedError):
        world.snapshot(world.key(80))  # there is no room beside the one that may still become complete
    world.settle()
    world.snapshot(world.key(100))
    world.settle()
    world.now_s += 1  # a peer that had no room is asked again
    world.settle()
    assert world.keepers["a"].safe_step(RUN) == 100


def test_mirror_lag_is_counted_in_steps_that_training_made_meanwhile(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20))
    world.keepers["a"].note_step(RUN, 22)
    world.settle()
    lag = world.keepers["a"].status(RUN).lag
    assert (lag.last_steps, lag.most_steps) == (2, 2)
    world.snapshot(world.key(40))
    world.keepers["a"].note_step(RUN, 41)
    world.settle()
    lag = world.keepers["a"].status(RUN).lag
    assert (lag.last_steps, lag.most_steps) == (1, 2)


def test_a_leaving_node_does_not_count_as_a_safe_place(worlds):
    world = worlds(nodes=4)
    world.begin(world_size=4)
    world.snapshot(world.key(20, world_size=4))
    world.settle()
    assert world.keepers["a"].safe_step(RUN) == 20
    mirrors = {name: tuple(n for n in "acd" if n != name)[:1] for name in "acd"} | {"b": ("d",)}
    world.begin(world_size=4, leaving=("b", "c"), mirrors={**mirrors, "c": ("a",), "a": ("d",), "d": ("a",)})
    world.settle()
    assert world.keepers["a"].safe_step(RUN) == 20
    for rank in range(4):
        holders = {n for n, k in world.keepers.items() for p in k.inventory(RUN).held if p.key.rank == rank}
        assert holders - {"b", "c"}, f"rank {rank}'s part is only on nodes that leave"


def test_ending_a_run_gives_its_memory_back(worlds):
    world = worlds()
    world.begin()
    world.snapshot(world.key(20))
    world.settle()
    for keeper in world.keepers.values():
        keeper.end_run(RUN)
    assert [keeper.store.used_bytes for keeper in world.keepers.values()] == [0, 0, 0]
