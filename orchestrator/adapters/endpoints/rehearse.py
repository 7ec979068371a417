"""A recorded demand played against the lending policy: what would be lent, and whether anybody would wait for it.

The same port and policy as live; devices come back as foreseen, and training wants all that it can have.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from orchestrator.adapters.endpoints.demand import DemandSeries
from orchestrator.adapters.endpoints.recorded import RecordedEndpoints, Recording
from orchestrator.policy.lending.values import Decision, Standing, Terms

LOOK_S = 60.0


@dataclass(slots=True)
class Hand:
    """A clock that is set."""

    at_s: float

    def now_s(self) -> float:
        return self.at_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One evaluation: demand, what was decided, and who holds the devices after it."""

    at_s: float
    rps: float
    decision: Decision
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedDay:
    """One day of the endpoint's customers. `short_s`: time in which fewer replicas answered than the demand needed, and
    which would have been enough without lending."""

    date: dt.date
    lent_replica_s: float
    fewest_answering: int
    peak_rps: float
    short_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came of it; `decisions` counts them by kind: Lend, Recall, Emergency, Keep."""

    days: tuple[RehearsedDay, ...]
    decisions: Counter[str]

    @property
    def lent_replica_s(self) -> float:
        """Over all days."""
        return sum(day.lent_replica_s for day in self.days)

    @property
    def short_s(self) -> float:
        """Over all days."""
        return sum(day.short_s for day in self.days)


def rehearse(terms: Terms, demand: DemandSeries, *, begins_s: float) -> Rehearsal:
    """Play the whole series, which begins at that instant, with one look a minute."""
    looks = list(_looks(terms, demand, begins_s))
    zone = ZoneInfo(terms.timezone)
    by_date: dict[dt.date, list[Look]] = {}
    for look in looks:
        by_date.setdefault(dt.datetime.fromtimestamp(look.at_s, zone).date(), []).append(look)
    days = tuple(_day(date, of, terms) for date, of in sorted(by_date.items()))
    return Rehearsal(days=days, decisions=Counter(type(look.decision).__name__ for look in looks))


def _looks(terms: Terms, demand: DemandSeries, begins_s: float) -> Iterator[Look]:
    clock = Hand(begins_s)
    recording = Recording(name=demand.name, terms=terms, demand=demand, begins_s=begins_s)
    port = RecordedEndpoints((recording,), clock)
    for index in range(int(demand.length_s // LOOK_S)):
        clock.at_s = begins_s + index * LOOK_S
        port.headroom()
        decision = port.decision(demand.name)
        assert decision is not None, "it was asked a moment ago"
        yield Look(
            at_s=clock.at_s, rps=demand.at(index * LOOK_S), decision=decision, standing=port.standing(demand.name)
        )


def _day(date: dt.date, looks: list[Look], terms: Terms) -> RehearsedDay:
    return RehearsedDay(
        date=date,
        lent_replica_s=LOOK_S * sum(look.standing.lent for look in looks),
        fewest_answering=min(look.standing.serving for look in looks),
        peak_rps=max(look.rps for look in looks),
        short_s=LOOK_S * sum(look.standing.serving < terms.replicas_for(look.rps) for look in looks),
    )
