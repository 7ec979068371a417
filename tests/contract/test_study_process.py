"""The study's side of its folder: orders bound its seats, and an attempt ends once it holds no more than the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.study_process import SEATING, StudyDesk, dearest, found
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.queueing.orders import Phase
from orchestrator.spec import Cluster, load_text
from orchestrator.study.record import StudyRecord
from tests.study.worlds import World as WorldOfTrials
from tests.study.worlds import drive, make_study

T0 = 1000.0


class World:
    """A study's process without Ray, at a time that the test sets."""

    def __init__(self, root: Path) -> None:
        self.at_s = T0
        self.folder = JobFolder(root / "jobs" / "s")
        log = LogWriter(root / "logs", "s", root / "none", lambda: "12:00")
        self.desk = StudyDesk(self.folder, log, lambda: self.at_s)

    def order(self, attempt: int, seats: dict[str, int], *, stop: bool = False, until_s: float | None = None) -> None:
        letter = Letter(id=f"s-a{attempt}", attempt=attempt, at_s=self.at_s, seats=seats, stop=stop, until_s=until_s)
        self.folder.write_order(letter)
        self.look()

    def look(self, seconds: float = 1.0) -> None:
        self.at_s += seconds
        self.desk.look()

    def phases(self) -> dict[int, Phase]:
        return {one.attempt: one.phase for one in self.folder.read_reports()}


def test_seats_follow_the_newest_order_and_earlier_ones_end_when_what_is_too_much_is_given_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.order(1, {"a": 2, "b": 2})
    assert world.desk.lease() == {"a": 2, "b": 2}
    assert world.phases() == {1: Phase.STARTING}
    world.desk.holds({"a": 2, "b": 2})
    world.look()
    assert world.phases() == {1: Phase.RUNNING}
    world.order(2, {"a": 2})
    world.desk.holds({"a": 2, "b": 2})
    world.look()
    assert world.phases() == {1: Phase.RUNNING, 2: Phase.RUNNING}
    world.desk.holds({"a": 2})
    world.look()
    assert world.phases() == {1: Phase.STOPPED, 2: Phase.RUNNING}


def test_an_end_that_a_full_disk_took_no_report_of_is_said_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: JobFolder, report: object) -> None:
        raise OSError("no space left on device")

    world = World(tmp_path)
    world.order(1, {"a": 2})
    world.desk.holds({"a": 2})
    with monkeypatch.context() as patch:
        patch.setattr(JobFolder, "write_report", full)
        world.order(2, {"a": 1})
        world.desk.holds({"a": 1})
        world.look()
    assert world.desk.lease() == {"a": 1}
    world.look()
    assert world.phases() == {1: Phase.STOPPED, 2: Phase.RUNNING}


def test_leased_workers_without_a_seat_are_a_stall(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.order(1, {"a": 3})
    world.desk.holds({"a": 1})
    world.look(4.0)
    world.desk.holds({"a": 3})
    world.look(10.0)
    (report,) = world.folder.read_reports()
    assert report.stalled_worker_s == ((SEATING, 3 * 1.0 + 2 * 4.0),)


def test_a_stop_is_a_wish_and_after_its_deadline_an_order(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.order(1, {"a": 1})
    assert world.desk.wants_stop() == 0
    world.order(1, {}, stop=True, until_s=world.at_s + 60.0)
    assert world.desk.wants_stop() == 1
    world.look(61.0)
    assert world.desk.wants_stop() == 2
    world.desk.finish(Phase.STOPPED, "saved", final=False)
    assert world.phases() == {1: Phase.STOPPED}


def test_a_study_asks_for_the_workers_of_its_trials_at_once() -> None:
    study = make_study()
    (cluster,) = load_text(
        "apiVersion: tideline/v1\nkind: Cluster\nmetadata: {name: c}\nspec:\n  pools:\n"
        "  - {name: p, device: cpu, resource: CPU, market: spot, price: '2.5', power_w: 90, capacity: {source: ray}}\n"
    )
    assert isinstance(cluster, Cluster)
    new = new_holder(study, cluster, now_s=0.0)
    workers, together = study.spec.template.workers, study.spec.concurrency
    assert (new.shape.sizes[0], new.shape.sizes[-1]) == (together.min * workers.min, together.max * workers.max)
    assert new.shape.kind == "Study"
    prices = [{"resource": "CPU", "usd": "2.5", "watts": 90.0}, {"resource": "CPU", "usd": "1", "watts": None}]
    assert dearest([*prices, {"resource": "TPU", "usd": "9", "watts": 9.0}], study).usd_per_device_hour == 2.5


def test_the_books_get_the_best_trial_and_its_values(tmp_path: Path) -> None:
    study = make_study(budget="{trials: 4}")
    record = drive(study, tmp_path / "s", WorldOfTrials())
    best = min((one for one in record.searched if one.state == "finished"), key=lambda one: one.value("bits_per_byte"))
    said = found(study, record)
    assert said.startswith(
        f"4 trials have a result, the best bits_per_byte {best.value('bits_per_byte'):.5g} ({best.trial}:"
    )
    assert "optimizer.lr" in said
    assert found(study, StudyRecord()) == "0 trials have a result"
