"""Pure decisions: complete, safe, droppable, where to restore from."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.keeper.judge import Pressure, Source, choose_source, droppable, judge
from jobs.train.keeper.values import HeldPart, Inventory, PartKey, SnapshotKey, Verdicts


def key(step: int, attempt: int = 0, world_size: int = 2) -> SnapshotKey:
    return SnapshotKey(run="r", step=step, attempt=attempt, world_size=world_size)


def held(node: str, *parts: tuple[SnapshotKey, int], **fields) -> Inventory:
    found = tuple(HeldPart(key=PartKey(snapshot=k, rank=rank), origin=node) for k, rank in parts)
    return Inventory(node=node, run="r", attempt=0, held=found, **fields)


def both(node: str, *keys: SnapshotKey) -> Inventory:
    return held(node, *((k, rank) for k in keys for rank in range(k.world_size)))


def verdicts(**fields) -> Verdicts:
    return Verdicts(run="r", attempt=0, **fields)


@pytest.mark.parametrize(
    ("inventories", "leaving", "complete", "safe"),
    [
        ([held("a", (key(1), 0))], (), (), None),
        ([held("a", (key(1), 0)), held("b", (key(1), 1))], (), (key(1),), None),
        ([both("a", key(1)), held("b", (key(1), 1))], (), (key(1),), None),
        ([both("a", key(1)), both("b", key(1))], (), (key(1),), key(1)),
        ([both("a", key(1)), both("b", key(1))], ("a",), (key(1),), key(1)),
        ([both("a", key(1)), both("b", key(1))], ("a", "b"), (key(1),), None),
        ([both("a", key(1)), both("b", key(1)), both("c", key(1))], ("a", "b"), (key(1),), key(1)),
        ([both("a", key(1), key(2), key(3)), both("b", key(1))], (), (key(2), key(3)), key(1)),
        ([both("a", key(2, 0)), both("b", key(2, 1))], (), (key(2, 0), key(2, 1)), None),
    ],
)
def test_what_is_complete_and_what_is_safe(inventories, leaving, complete, safe):
    found = judge("r", 0, inventories, leaving=leaving)
    assert (found.complete, found.safe) == (complete, safe)
    random.Random(1).shuffle(inventories)
    assert judge("r", 0, inventories, leaving=leaving) == found


def test_a_skipped_snapshot_is_abandoned_and_trouble_of_one_node_is_heard():
    found = judge("r", 0, [held("a", skipped=(key(3),)), held("b", mirror_error="peer is gone")])
    assert (found.abandoned, found.mirror_failing) == ((key(3),), True)


ALL = [key(step) for step in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("fields", "pressure", "dropped"),
    [
        ({}, Pressure.NONE, []),
        ({"complete": (key(1),)}, Pressure.NONE, []),
        ({"complete": (key(2), key(3))}, Pressure.NONE, [1]),
        ({"complete": (key(3), key(4)), "safe": key(1)}, Pressure.NONE, [2]),
        ({"complete": (key(3), key(4)), "safe": key(1), "flush": key(2)}, Pressure.NONE, []),
        ({"complete": (key(3), key(4)), "safe": key(1), "flush": key(2)}, Pressure.MIRROR_FAILING, [3]),
        ({"complete": (key(3), key(4)), "safe": key(1), "flush": key(2)}, Pressure.FINAL, [2, 3]),
        ({"complete": (key(2), key(3)), "abandoned": (key(5),)}, Pressure.NONE, [1, 5]),
        ({"complete": (key(1), key(3)), "safe": key(1)}, Pressure.NONE, [2]),
    ],
)
def test_what_may_be_dropped(fields, pressure, dropped):
    assert [k.step for k in droppable(ALL, verdicts(**fields), pressure)] == dropped


def test_a_snapshot_in_the_making_gives_way_to_the_second_one_that_finds_no_room():
    found = verdicts(complete=(key(1), key(2)))
    assert droppable([*ALL[:3]], found, room_for=key(4)) == []
    assert droppable([*ALL[:3]], found, room_for=key(5), refused=[key(4)]) == [key(3)]
    assert droppable([*ALL[:3]], found, Pressure.FINAL, room_for=key(4)) == [key(1)]
    assert droppable([*ALL[:3]], found, Pressure.LAST_RESORT, room_for=key(4)) == [key(1), key(3)]


@given(
    complete=st.sets(st.integers(1, 9), max_size=2).map(sorted),
    safe=st.integers(0, 9),
    flush=st.integers(0, 9),
    pressure=st.sampled_from(Pressure),
    room_for=st.integers(0, 12),
)
def test_the_newest_complete_and_the_newest_safe_are_never_dropped(complete, safe, flush, pressure, room_for):
    every = [key(step) for step in range(1, 10)]
    found = verdicts(
        complete=tuple(key(step) for step in complete),
        safe=key(safe) if safe else None,
        flush=key(flush) if flush else None,
    )
    wanted = key(room_for) if room_for else None
    dropped = droppable(every, found, pressure, room_for=wanted, refused=every)
    assert not {*found.complete[-1:], found.safe} & set(dropped)
    assert wanted is None or wanted not in dropped or (complete and room_for <= complete[-1])
    assert dropped == sorted(dropped)


@pytest.mark.parametrize(
    ("inventories", "storage_step", "source", "step", "lacking"),
    [
        ([], None, Source.NOTHING, 0, []),
        ([], 7, Source.STORAGE, 7, []),
        ([both("a", key(5))], 7, Source.STORAGE, 7, []),
        ([both("a", key(7))], 7, Source.KEEPERS, 7, []),
        ([both("a", key(5)), held("b", (key(9), 1))], 7, Source.STORAGE, 7, [(9, (0,))]),
        ([both("a", key(5)), held("b", (key(9), 1))], None, Source.KEEPERS, 5, [(9, (0,))]),
        ([held("a", (key(9, 0), 0)), held("b", (key(9, 1), 1))], None, Source.NOTHING, 0, [(9, (0,)), (9, (1,))]),
        ([held("a", (key(9), 0)), held("b", (key(9), 1))], 7, Source.KEEPERS, 9, []),
    ],
)
def test_where_a_run_continues_from(inventories, storage_step, source, step, lacking):
    choice = choose_source("r", inventories, storage_step)
    assert (choice.source, choice.step) == (source, step)
    assert [(lost.key.step, lost.missing_ranks) for lost in choice.passed_over] == lacking
    assert choice == choose_source("r", inventories[::-1], storage_step)


def test_of_two_attempts_at_the_same_step_the_later_one_is_taken():
    choice = choose_source("r", [both("a", key(5, 0), key(5, 1))], None)
    assert choice.key == key(5, 1)
    assert choice.older == (key(5, 0),)


def test_other_runs_do_not_count():
    assert choose_source("other", [both("a", key(5))], None).source is Source.NOTHING


@pytest.mark.parametrize("fields", [{"run": "../x"}, {"run": ""}, {"step": -1}, {"attempt": -1}, {"world_size": 0}])
def test_keys_that_no_run_can_have_are_refused(fields):
    with pytest.raises(ValueError, match=r"run name|out of range"):
        SnapshotKey(**{"run": "r", "step": 1, "attempt": 0, "world_size": 1, **fields})
