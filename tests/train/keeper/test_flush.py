"""Snapshots reach storage beside training; whatever storage does, what was committed stays and it is tried again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train.keeper import flush_policy
from jobs.train.keeper.faults import Point
from jobs.train.keeper.flush_policy import FlushRules
from jobs.train.keeper.values import PartKey, SnapshotKey
from tests.train.keeper.world import RUN, CrashAt, content

EVERY_S = 100.0
FLUSHED = {"storage_url": "memory", "checkpoint_every_s": EVERY_S, "first_checkpoint_in_s": EVERY_S}


@pytest.fixture
def world(worlds):
    made = worlds()
    made.begin(**FLUSHED)
    return made


def snapshot(world, step: int) -> None:
    world.snapshot(world.key(step))
    world.settle()


def committed(world) -> list[int]:
    return [json.loads(manifest)["step"] for manifest in world.storage.manifests]


def test_nothing_is_written_before_it_is_due(world):
    snapshot(world, 20)
    assert world.storage.files == {}
    world.now_s = EVERY_S
    world.settle()
    assert committed(world) == [20]


def test_every_part_is_written_once_and_byte_for_byte(world):
    world.now_s = EVERY_S
    snapshot(world, 20)
    assert world.storage.files == {
        f"part-20-{rank}": content(PartKey(snapshot=world.key(20), rank=rank), 200) for rank in range(3)
    }
    (manifest,) = world.storage.manifests
    assert [part["rank"] for part in json.loads(manifest)["parts"]] == [0, 1, 2]


def test_the_next_one_is_due_an_interval_later(world):
    world.now_s = EVERY_S
    snapshot(world, 20)
    snapshot(world, 40)
    assert committed(world) == [20]
    world.now_s = 2 * EVERY_S
    world.settle()
    assert committed(world)[-1] == 40


def test_the_snapshot_being_written_is_kept_until_it_is_written(world):
    world.now_s = EVERY_S
    for name in "abc":
        world.keepers[name].flusher.pump = lambda: None  # storage is slow
    for step in (20, 40, 60, 80):
        snapshot(world, step)
    assert [world.steps(name) for name in "abc"] == [[20, 60, 80]] * 3


@pytest.mark.parametrize("writes_left", range(4))
def test_storage_that_fails_at_any_write_leaves_the_older_checkpoint_and_is_tried_again(world, writes_left):
    world.now_s = EVERY_S
    snapshot(world, 20)
    world.storage.writes_left = writes_left
    world.now_s = 2 * EVERY_S
    snapshot(world, 40)
    assert committed(world) == [20]
    status = world.keepers["a"].status(RUN)
    assert "storage is full" in status.flush_error
    assert (status.safe, status.committed) == (40, 20), "training and mirroring go on"
    world.storage.writes_left = 100
    snapshot(world, 60)
    assert committed(world) == [20], "not before the retry is due"
    world.now_s += 10
    world.settle()
    assert committed(world)[-1] == 60
    assert world.keepers["a"].status(RUN).flush_error == ""


def test_without_a_newer_snapshot_the_same_one_is_tried_again(world):
    world.storage.broken = "storage is read-only"
    world.now_s = EVERY_S
    snapshot(world, 20)
    assert "read-only" in world.keepers["a"].status(RUN).flush_error
    world.storage.broken = ""
    world.now_s += 10
    world.settle()
    assert committed(world) == [20]


def test_storage_that_hangs_is_given_up(world):
    world.now_s = EVERY_S
    pump = world.keepers["c"].flusher.pump
    world.keepers["c"].flusher.pump = lambda: None
    snapshot(world, 20)
    world.now_s += 51
    world.settle()
    assert world.keepers["a"].status(RUN).flush_error == "storage took longer than 50 s"
    world.keepers["c"].flusher.pump = pump
    world.now_s += 10
    world.settle()
    assert committed(world) == [20]


@pytest.mark.parametrize(
    "point",
    [Point.FLUSH_BEFORE_PART, Point.FLUSH_AFTER_PART, Point.FLUSH_BEFORE_COMMIT, Point.FLUSH_AFTER_COMMIT],
)
def test_a_keeper_that_dies_while_flushing_is_no_half_checkpoint(worlds, point):
    world = worlds()
    plan = world.begin(**FLUSHED)
    world.kill_keeper("a")
    world.boot("a", CrashAt(point)).begin_attempt(plan)
    world.now_s = EVERY_S
    snapshot(world, 20)
    assert "a" not in world.keepers
    assert committed(world) == ([20] if point is Point.FLUSH_AFTER_COMMIT else [])
    world.boot("a").begin_attempt(plan)
    world.now_s += EVERY_S + 60
    world.settle()
    assert committed(world)[-1] == 20


def test_a_flush_that_is_asked_for_does_not_wait(world):
    snapshot(world, 20)
    world.keepers["a"].flush_now(RUN)
    world.settle()
    assert committed(world) == [20]
    assert world.keepers["a"].wait_flushed(RUN, 20, 0.0)
    with pytest.raises(KeyError, match="not led by node b"):
        world.keepers["b"].flush_now(RUN)


def test_what_is_in_storage_already_is_not_written_again(worlds):
    world = worlds()
    world.begin(**FLUSHED, committed_step=20)
    world.now_s = EVERY_S
    snapshot(world, 20)
    assert world.storage.files == {}


def test_survivors_write_the_parts_of_a_node_that_is_lost(worlds):
    """Before devices are given back after a loss, what only keepers have must reach storage."""
    world = worlds()
    world.begin()
    snapshot(world, 20)
    world.kill_node("c")
    world.begin(attempt=1, kept=(world.key(20),), **FLUSHED)
    world.settle()
    world.keepers["a"].flush_now(RUN)
    world.settle()
    assert committed(world) == [20]
    assert len(world.storage.files) == 3


KEY = SnapshotKey(run="r", step=5, attempt=0, world_size=1)


@pytest.mark.parametrize("every_s", [0.0, 10.0])
def test_a_wish_that_comes_during_a_flush_outlives_it(every_s):
    """What is being written is older than what whoever asked for wants to have in storage."""
    rules = FlushRules(every_s=every_s, timeout_s=20.0, retry_s=3.0)
    newer = replace(KEY, step=6)
    state = flush_policy.ask(flush_policy.begin(rules, every_s, -1, 0.0), 1.0)
    state = flush_policy.advance(state, rules, KEY, {}, 1.0)
    assert state.target == KEY
    state = flush_policy.ask(state, 2.0)
    state = flush_policy.committed(flush_policy.advance(state, rules, newer, {}, 2.0), rules, 3.0)
    assert flush_policy.advance(state, rules, newer, {}, 3.0).target == newer


def test_a_flush_that_nobody_followed_with_a_wish_is_the_last_until_the_next_is_due():
    rules = FlushRules(every_s=10.0, timeout_s=20.0, retry_s=3.0)
    state = flush_policy.advance(flush_policy.begin(rules, 1.0, -1, 0.0), rules, KEY, {}, 1.0)
    state = flush_policy.committed(state, rules, 2.0)
    assert flush_policy.advance(state, rules, replace(KEY, step=6), {}, 11.9).target is None
    assert flush_policy.advance(state, rules, replace(KEY, step=6), {}, 12.0).target is not None


@given(
    every_s=st.sampled_from([0.0, 10.0]),
    events=st.lists(st.tuples(st.sampled_from(["ok", "fail", "hang", "ask", "wait"]), st.floats(0, 30)), max_size=30),
)
def test_no_history_of_flushes_starts_two_at_once_or_spins(every_s, events):
    rules = FlushRules(every_s=every_s, timeout_s=20.0, retry_s=3.0)
    state, now_s, step = flush_policy.begin(rules, every_s, -1, 0.0), 0.0, 0
    for event, seconds in events:
        now_s, step = now_s + seconds, step + 1
        before = state
        failed = {state.target: "full"} if event == "fail" and state.target else {}
        if event == "ok" and state.target:
            state = flush_policy.committed(state, rules, now_s)
        elif event == "ask":
            state = flush_policy.ask(state, now_s)
        newest = SnapshotKey(run="r", step=step, attempt=0, world_size=1)
        state = flush_policy.advance(state, rules, newest, failed, now_s)
        assert before.target is None or state.target in (before.target, None, newest)
        if before.target and before.target in failed:
            assert state.target is None
            assert state.due_at_s == now_s + rules.retry_s
        wait_s = flush_policy.wait_s(state, rules, now_s)
        assert wait_s is None or wait_s >= 0
        assert state.target is None or now_s - state.since_s <= rules.timeout_s
