"""The endpoint's side of its folder: orders become replicas, what is seen of them becomes reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.endpoints.roster import COLD_START, Roster
from orchestrator.adapters.endpoints.sight import read_sight
from orchestrator.adapters.jobs.archive import FileLogArchive
from orchestrator.adapters.ray_serve.seating import free_seat, unseated
from orchestrator.adapters.ray_serve.seen import Count
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.queueing.orders import Phase, Report
from tests.contract.endpoint_fakes import T0, Fake, World, letter


def by_attempt(reports: tuple[Report, ...]) -> dict[int, Phase]:
    return {one.attempt: one.phase for one in reports}


def test_an_attempt_runs_once_all_of_its_replicas_answer_and_what_they_took_is_a_stall() -> None:
    roster = Roster("e")
    roster.take(letter(1, 3))
    roster.see(answering=0, present=3, now_s=T0 + 4.0)
    assert by_attempt(roster.reports()) == {1: Phase.STARTING}
    roster.see(answering=2, present=3, now_s=T0 + 6.0)
    roster.see(answering=3, present=3, now_s=T0 + 7.0)
    (report,) = roster.reports()
    assert report.phase is Phase.RUNNING
    assert report.stalled_worker_s == ((COLD_START, 3 * 4.0 + 1 * 2.0),)
    assert roster.cold_starts_s == [7.0]


def test_the_attempt_before_is_over_when_the_replicas_that_it_had_too_many_are_gone() -> None:
    roster = Roster("e")
    roster.take(letter(1, 3))
    roster.see(answering=3, present=3, now_s=T0)
    roster.take(letter(2, 1, at_s=T0 + 10.0))
    roster.see(answering=1, present=3, now_s=T0 + 12.0)  # two drain
    assert by_attempt(roster.reports()) == {1: Phase.RUNNING, 2: Phase.STARTING}
    roster.see(answering=1, present=1, now_s=T0 + 15.0)
    assert by_attempt(roster.reports()) == {1: Phase.STOPPED, 2: Phase.RUNNING}
    assert roster.cold_starts_s == []
    roster.forget(1)
    assert by_attempt(roster.finish(Phase.STOPPED, "")) == {2: Phase.STOPPED}


def test_replicas_follow_the_orders_and_their_end_is_said_to_the_end(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake()
    keeper = world.keeper(fake)
    world.folder.write_order(letter(1, 2))
    keeper.begin()
    counters = (Counter(source="r", at_s=T0, total=5.0),)
    fake.now = Count(answering=2, present=2)
    assert keeper.tick(counters)
    assert read_sight(world.folder.path).counters == counters
    assert read_sight(world.folder.path).answering == 2
    world.folder.write_order(letter(2, 1))
    assert keeper.tick(())
    fake.now, world.at_s = Count(answering=1, present=1), T0 + 1.0
    assert keeper.tick(())
    assert by_attempt(world.folder.read_reports()) == {1: Phase.STOPPED, 2: Phase.RUNNING}
    assert fake.leased == [2, 1]
    world.folder.write_order(letter(2, 0, stop=True))
    assert not keeper.tick(())
    keeper.finish(Phase.STOPPED, "its replicas have finished")
    assert by_attempt(world.folder.read_reports()) == {1: Phase.STOPPED, 2: Phase.STOPPED}
    log = FileLogArchive(tmp_path / "logs").chunk("e", 2, offset=0, limit=4096)
    assert log.ended
    assert b"2 replicas" not in log.data
    assert b"the end: stopped" in log.data


def test_a_second_process_goes_on_with_the_replicas_of_the_first(tmp_path: Path) -> None:
    world, first, second = World(tmp_path), Fake(), Fake()
    world.folder.write_order(letter(1, 2))
    world.keeper(first).begin()
    world.folder.write_order(letter(2, 2))
    world.keeper(second).begin()
    assert first.begun == second.begun == [first.made]
    assert second.leased == [2]


def test_a_process_that_is_started_again_counts_nothing_that_it_did_not_see(tmp_path: Path) -> None:
    """Its replicas answered for hours, and do not look so for a moment: that is no start of hours."""
    world, first, second = World(tmp_path), Fake(), Fake()
    world.folder.write_order(letter(1, 2))
    keeper = world.keeper(first)
    keeper.begin()
    for answering, at_s in ((0, T0 + 3.0), (2, T0 + 5.0)):
        first.now, world.at_s = Count(answering=answering, present=2), at_s
        keeper.tick(())
    world.at_s += 7200.0
    keeper = world.keeper(second)
    keeper.begin()
    for answering, seconds in ((1, 2.0), (2, 2.0)):
        second.now, world.at_s = Count(answering=answering, present=2), world.at_s + seconds
        keeper.tick(())
    (report,) = world.folder.read_reports()
    assert report.phase is Phase.RUNNING
    assert report.stalled_worker_s == ((COLD_START, 2 * 3.0 + 1 * 2.0),)
    assert read_sight(world.folder.path).cold_starts_s == ()


def test_what_may_be_there_is_known_before_it_is_and_until_it_was_taken_down(tmp_path: Path) -> None:
    world, fake = World(tmp_path), Fake(dies=True)
    world.folder.write_order(letter(1, 2))
    with pytest.raises(SystemExit):
        world.keeper(fake).begin()
    assert world.folder.leaves_something
    keeper = world.keeper(Fake())
    keeper.begin()
    keeper.gone()
    assert not world.folder.leaves_something


def test_a_process_that_begins_with_a_stop_starts_nothing_and_says_the_end_of_the_one_that_died(tmp_path: Path) -> None:
    world, first, second = World(tmp_path), Fake(), Fake()
    world.folder.write_order(letter(1, 2))
    dies = world.keeper(first)
    assert dies.begin()
    first.now = Count(answering=0, present=2)
    world.at_s += 3.0
    dies.tick(())
    world.folder.write_order(letter(1, 0, stop=True))
    keeper = world.keeper(second)
    assert not keeper.begin()
    assert second.begun == []
    keeper.finish(Phase.STOPPED, "its replicas have finished")
    (report,) = world.folder.read_reports()
    assert (report.attempt, report.phase, report.detail) == (1, Phase.STOPPED, "its replicas have finished")
    assert report.stalled_worker_s == ((COLD_START, 2 * 3.0),)


def test_replicas_beyond_the_seats_of_their_node_go_first_the_newest_of_them_first() -> None:
    node_of = {"old": "a", "mid": "b", "new": "a", "newest": "c"}
    assert unseated({"a": 1, "b": 1}, node_of) == ["newest", "new"]
    assert unseated({"a": 2, "b": 1, "c": 1}, node_of) == []


def test_a_replica_starts_where_most_seats_are_free() -> None:
    assert free_seat({"a": 2, "b": 3}, {"b": 2}) == "a"
    assert free_seat({"a": 1, "b": 1}, {"a": 1, "b": 1}) is None
