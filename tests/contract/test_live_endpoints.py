"""Live endpoints behind the cycle's port: what is seen decides when a device changes hands."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.adapters.endpoints.live import Lending, LiveEndpoints, Seen, observed
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.lending.values import Keep, Lend, Loan, Recall, Return, Standing, Terms
from tests.policy.lending.worlds import MONDAY_S, terms

STEP_S = 30.0


@dataclass
class Place:
    """An endpoint of 20 replicas and a job beside it; the test moves replicas, workers and time."""

    at_s: float = MONDAY_S
    rps: float = 150.0
    leased: int = 20
    replicas: int = 20
    training: int = 0
    total: float = 0.0

    def now_s(self) -> float:
        return self.at_s

    def see(self) -> Seen:
        counter = Counter(source="r", at_s=self.at_s, total=self.total)
        return Seen(counters=(counter,), answering=self.replicas, holding=self.replicas, training=self.training)

    def lease(self, replicas: int) -> None:
        self.leased = replicas

    def wait(self, seconds: float = STEP_S) -> None:
        self.at_s += seconds
        self.total += self.rps * seconds


def known_days(of: Terms) -> Memory:
    """Two days at 150 rps by day and 40 by night, hours of rising and falling between."""
    memory, standing = Memory(), Standing(serving=of.replicas)
    hours = [40.0] * 7 + [95.0] + [150.0] * 12 + [95.0] + [40.0] * 3
    for tick in range(2 * 720):
        at_s = MONDAY_S - 2 * 86_400 + tick * 120
        hour, part = divmod(tick / 30, 1)
        rps = hours[int(hour) % 24] * (1 - part) + hours[(int(hour) + 1) % 24] * part
        _, memory = decide_lending(of, standing, memory, Sample(at_s=at_s, rps=rps), now_s=at_s)
    return memory


def test_a_night_passes_devices_on_only_when_they_are_let_go() -> None:
    of = terms(settle_s=0.0)
    place = Place(at_s=MONDAY_S + 3600.0, rps=40.0)
    live = LiveEndpoints((Lending(name="e", terms=of, around=place, memory=known_days(of)),), place)
    live.headroom()
    place.wait()
    assert live.headroom() == {"gpu": 20}  # lent, and the replicas still hold everything
    lent = live.standing("e").lent
    assert isinstance(live.decision("e"), Lend)
    assert lent > 5
    assert place.leased == 20 - lent
    place.replicas = place.leased
    place.wait()
    assert live.headroom() == {"gpu": 20 - lent}
    place.training = lent

    kept_free = 20 - lent
    while not isinstance(live.decision("e"), Recall):
        assert place.rps < 150.0
        place.rps += 0.4  # earlier than ever, and no faster than ever
        place.wait()
        kept_free = live.headroom()["gpu"]
    back = live.standing("e").returning
    assert kept_free == 20 - lent + back
    assert place.leased == 20 - lent  # training holds them still
    place.training = lent - back
    live.headroom()
    assert place.leased == 20 - lent + back
    place.replicas = place.leased
    live.headroom()
    assert live.standing("e").returning == 0
    assert live.standing("e").serving >= 20 - lent + back


def test_what_was_called_first_is_back_first() -> None:
    returns = (Return(100.0, 2, called_s=0.0), Return(200.0, 3, called_s=50.0))
    standing = Standing(serving=10, loans=(Loan(0.0, 5),), returns=returns)
    seen = Seen(counters=(), answering=11, holding=12, training=5 + 2)
    after = observed(standing, seen, terms())
    assert after.serving == 11
    assert after.returns == (
        Return(100.0, 1, called_s=0.0, left=True),
        Return(200.0, 1, called_s=50.0, left=True),
        Return(200.0, 2, called_s=50.0),
    )
    assert after.serving + after.returning + after.lent == 20


def test_a_replica_that_is_new_is_missed_for_one_look_only() -> None:
    place = Place(rps=100.0)
    live = LiveEndpoints((Lending(name="e", terms=terms(), around=place, window_s=90.0),), place)
    for _ in range(4):
        live.headroom()
        place.wait()
    sample = live.demand("e")
    assert sample is not None
    assert sample.rps == 100.0
    assert isinstance(live.decision("e"), Keep)
