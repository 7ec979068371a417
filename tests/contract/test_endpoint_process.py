"""The endpoint's side of its folder: orders become replicas, what is seen of them becomes reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.endpoints.life import Document, Life
from orchestrator.adapters.endpoints.process import Keeper
from orchestrator.adapters.endpoints.rollout import Progress
from orchestrator.adapters.endpoints.roster import COLD_START, Roster
from orchestrator.adapters.endpoints.sight import read_sight
from orchestrator.adapters.jobs.archive import FileLogArchive
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.ray_serve.held import Count
from orchestrator.adapters.ray_serve.seating import free_seat, unseated
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.queueing.orders import Phase, Report
from orchestrator.spec.errors import UserError

T0 = 1000.0


def letter(attempt: int, replicas: int, *, at_s: float = T0, stop: bool = False) -> Letter:
    seats = {} if stop else {"n": replicas}
    return Letter(id=f"e-a{attempt}", attempt=attempt, at_s=at_s, seats=seats, stop=stop)


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


def document(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "e"}, "spec": {"model": "m@1", **spec}}


@dataclass
class Fake:
    """An endpoint whose replicas come and go, and become others, when the test says so."""

    urls: dict[str, str] = field(default_factory=lambda: {"interactive": "http://127.0.0.1:1/e"})
    leased: list[int] = field(default_factory=list)
    begun: list[Life] = field(default_factory=list)
    dies: bool = False
    rolled: list[Life] = field(default_factory=list)
    now: Count = field(default_factory=lambda: Count(answering=0, present=0))
    going: Progress = field(default_factory=lambda: Progress(fresh=0, wanted=2))
    room: bool = True
    unknown: set[str] = field(default_factory=set)
    said: tuple[str, ...] = ()
    newer: Life | None = None
    made: Life | None = None

    @property
    def life(self) -> Life:
        assert self.made is not None
        return self.made

    def first(self, document: Document) -> Life:
        return self.plan(document)

    def start(self, life: Life, seats: Mapping[str, int]) -> None:
        if self.dies:
            raise SystemExit
        self.leased.append(sum(seats.values()))
        self.begun.append(life)
        self.made = life

    def plan(self, document: Document) -> Life:
        model = document["spec"]["model"]
        if model in self.unknown:
            raise UserError(f"there is no {model}")
        return Life(document=document, built=model, ref=model)

    def has_room(self, life: Life) -> bool:
        return self.room

    def roll(self, life: Life) -> None:
        self.made = life
        self.rolled.append(life)

    def progress(self) -> Progress:
        return self.going

    def lease(self, seats: Mapping[str, int]) -> None:
        self.leased.append(sum(seats.values()))

    def settle(self) -> bool:
        return False

    def extra(self, *, rolling: bool) -> int:
        return int(rolling)

    def nodes(self) -> dict[str, int]:
        return {}

    def count(self) -> Count:
        return self.now

    def arrivals(self) -> tuple[Counter, ...]:
        return ()

    def refresh(self) -> tuple[str, ...]:
        return self.said

    def overtaken(self) -> Life | None:
        return self.newer

    def canary(self) -> dict[str, Any] | None:
        return None

    def close(self) -> None:
        """Nothing is there."""


@dataclass
class World:
    """A folder, and the clock of whoever keeps the endpoint."""

    root: Path
    at_s: float = T0

    def __post_init__(self) -> None:
        self.wants()

    def wants(self, **spec: Any) -> dict[str, Any]:
        """The file is this from now on."""
        self.folder.write_job(document(**spec), {})
        return document(**spec)

    @property
    def folder(self) -> JobFolder:
        return JobFolder(self.root / "jobs" / "e")

    def keeper(self, fake: Fake) -> Keeper:
        log = LogWriter(self.root / "logs", "e", self.root / "none", lambda: "12:00")
        return Keeper(self.folder, fake, log, lambda: self.at_s)

    def tick(self, keeper: Keeper) -> None:
        self.at_s += 1.0
        assert keeper.tick(())

    def change(self) -> tuple[str, str]:
        found = read_sight(self.folder.path).rollout
        assert found is not None
        return found["state"], found["detail"]


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


# --- Another file while it runs ---------------------------------------------------------------------------------------


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
