"""One endpoint's lender: what it sees of its replicas decides when a device changes hands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.adapters.endpoints.holders import recall_times
from orchestrator.adapters.endpoints.live import Lender, Seen, found, observed
from orchestrator.adapters.endpoints.memory import read_drains, read_memory, write_memory
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.lending.values import Keep, Lend, Loan, Recall, RecallTimes, Return, Standing, Terms
from tests.policy.lending.worlds import MONDAY_S, known_days, terms

STEP_S = 30.0


@dataclass
class Place:
    """An endpoint of 20 replicas of which the test moves devices, replicas and time."""

    at_s: float = MONDAY_S
    rps: float = 150.0
    held: int = 20
    replicas: int = 20
    total: float = 0.0

    def see(self) -> Seen:
        counter = Counter(source="r", at_s=self.at_s, total=self.total)
        return Seen(counters=(counter,), answering=self.replicas, held=self.held)

    def look(self, lender: Lender, of: Terms, seconds: float = STEP_S) -> None:
        self.at_s += seconds
        self.total += self.rps * seconds
        lender.look(of, self.see(), now_s=self.at_s)


def test_a_night_passes_devices_on_only_when_they_are_let_go() -> None:
    of = terms(settle_s=0.0)
    place = Place(at_s=MONDAY_S + 3600.0, rps=40.0)
    lender = Lender(known_days(of))
    place.look(lender, of)
    assert lender.owed == 20
    place.look(lender, of)
    lent = lender.standing.lent
    assert isinstance(lender.decision, Lend)
    assert lent > 5
    assert lender.owed == 20 - lent
    place.held = place.replicas = 20 - lent
    while not isinstance(lender.decision, Recall):
        assert place.rps < 150.0
        place.rps += 0.4  # earlier than ever, and no faster than ever
        place.look(lender, of)
    back = lender.standing.returning
    assert lender.owed == 20 - lent + back
    assert not any(one.left for one in lender.standing.returns)
    called_s, place.held = place.at_s, 20 - lent + back  # training has let go
    place.look(lender, of)
    assert all(one.left for one in lender.standing.returns if one.called_s == called_s)
    assert lender.drains_s == (STEP_S,)
    place.replicas = place.held
    place.look(lender, of)
    assert lender.standing.serving >= 20 - lent + back
    assert lender.owed + lender.standing.lent == 20


def test_what_was_called_first_is_back_first() -> None:
    returns = (Return(100.0, 2, called_s=0.0), Return(200.0, 3, called_s=50.0))
    standing = Standing(serving=10, loans=(Loan(0.0, 5),), returns=returns)
    after = observed(standing, Seen(counters=(), answering=11, held=20 - 5 - 2), terms())
    assert after.serving == 11
    assert after.returns == (
        Return(100.0, 1, called_s=0.0, left=True),
        Return(200.0, 1, called_s=50.0, left=True),
        Return(200.0, 2, called_s=50.0),
    )
    assert after.serving + after.returning + after.lent == 20


def test_a_replica_that_is_new_is_missed_for_one_look_only() -> None:
    place, lender = Place(rps=100.0), Lender(window_s=90.0)
    for _ in range(4):
        place.look(lender, terms())
    assert lender.demand is not None
    assert lender.demand.rps == 100.0
    assert isinstance(lender.decision, Keep)


def test_an_orchestrator_that_is_new_finds_what_is_lent_and_what_is_coming() -> None:
    standing = found(Seen(counters=(), answering=9, held=12), terms(), now_s=50.0)
    assert (standing.serving, standing.returning, standing.lent) == (9, 3, 8)
    assert all(one.left for one in standing.returns)


def test_what_nobody_saw_from_its_begin_is_no_measured_recall() -> None:
    place, lender = Place(rps=100.0, held=20, replicas=9), Lender()
    for size in (20, 18, 16, 20):  # its start, and sizes that its file or its pool change
        place.held = size
        place.look(lender, terms(devices=size))
    assert lender.standing.returning > 0
    assert lender.drains_s == ()


def test_a_clock_that_is_set_back_leaves_no_recall_that_took_less_than_nothing() -> None:
    of, place = terms(settle_s=0.0), Place(at_s=MONDAY_S + 3600.0, rps=40.0)
    lender = Lender(known_days(of))
    place.look(lender, of)
    place.look(lender, of)
    lent = lender.standing.lent
    place.held = place.replicas = 20 - lent
    while not isinstance(lender.decision, Recall):
        assert place.rps < 150.0
        place.rps += 0.4
        place.look(lender, of)
    place.held = 20 - lent + lender.standing.returning
    lender.look(of, place.see(), now_s=place.at_s - 600.0)
    assert lender.drains_s == (0.0,)
    assert recall_times(lender.drains_s * 3, ()).drain_s == 0.0


def test_one_that_remembers_disturbs_no_night_and_one_that_does_not_calls_everything_back(tmp_path: Path) -> None:
    of, file = terms(), tmp_path / "e.json"
    night = replace(known_days(of))
    at_s = (night.history.last_s or 0.0) + 3 * 3600.0
    place = Place(at_s=at_s, rps=40.0, held=10, replicas=10)
    before = Lender(night)
    for _ in range(3):
        place.look(before, of)
    write_memory(file, before.memory, (30.0, 60.0))
    assert read_memory(file) == before.memory
    assert (read_drains(file), read_drains(tmp_path / "none.json")) == ((30.0, 60.0), ())
    after, stranger = Lender(read_memory(file)), Lender(read_memory(tmp_path / "none.json"))
    place.look(after, of)
    stranger.look(of, place.see(), now_s=place.at_s)
    assert after.owed == 10
    assert stranger.owed == 20


def test_a_recall_is_counted_on_as_measured_once_there_were_some() -> None:
    assert recall_times((), ()).lead_s == 180.0
    assert recall_times((5.0,), (300.0, 2.0)).cold_start_s == 300.0
    assert recall_times((5.0, 6.0, 7.0), (8.0, 9.0, 7.0)) == RecallTimes(
        snapshot_s=0.0, drain_s=7.0, cold_start_s=9.0, left_s=7.0
    )
