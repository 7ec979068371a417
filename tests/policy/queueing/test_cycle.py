"""The cycle over fakes of every port: committed before anybody hears of it, repeated until somebody has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from orchestrator.cycle import Ports, run_cycle
from orchestrator.policy.queueing.decisions import Admit
from orchestrator.policy.queueing.orders import Phase, Report
from orchestrator.ports import FencedError, Order, UnreachableError
from tests.policy.queueing.build import apply, job, snapshot


@dataclass
class World:
    """All ports in one, with a diary of what was asked in which order."""

    snap: object
    headroom_: dict = field(default_factory=dict)
    unreachable: bool = False
    fenced: bool = False
    diary: list = field(default_factory=list)
    outbox: list = field(default_factory=list)
    seen: list = field(default_factory=list)

    def now_s(self):
        self.diary.append("clock")
        return 1234.0

    def headroom(self):
        return self.headroom_

    def urgent(self):
        return {}

    def passing(self):
        return {}

    def owed(self):
        return {}

    def observe(self):
        return self.snap.pools

    def snapshot(self, pools, *, now_s):
        return replace(self.snap, pools=pools, now_s=now_s)

    def commit(self, snap, decisions):
        if self.fenced:
            raise FencedError
        self.diary.append("commit")
        self.snap = apply(snap, decisions)
        started = (one for one in decisions.verdicts if isinstance(one, Admit))
        self.outbox += [Order(id=f"{one.job}-1", what=one) for one in started]

    def unsent(self):
        return tuple(self.outbox)

    def sent(self, orders):
        for order in orders:
            self.outbox.remove(order)

    def reports(self):
        if self.unreachable:
            raise UnreachableError
        return tuple(self.seen)

    def record(self, reports, *, now_s):
        self.diary += [f"ended {one.job}" for one in reports if one.over]
        return tuple(one for one in reports if one.over)

    def acknowledge(self, ended):
        for report in ended:
            self.seen.remove(report)

    def ask(self, order):
        if self.unreachable:
            raise UnreachableError
        self.diary.append(order.id)

    def cycle(self):
        return run_cycle(Ports(clock=self, capacity=self, endpoints=self, ledger=self, runner=self))


def test_books_before_deeds_and_the_clock_once():
    world = World(snapshot(8, waiting=(job("a", 4),)))
    report = world.cycle()
    assert world.diary == ["clock", "commit", "a-1"]
    assert (report.now_s, [order.id for order in report.sent], report.waiting_orders) == (1234.0, ["a-1"], ())


def test_who_cannot_be_reached_is_asked_again():
    world = World(snapshot(8, waiting=(job("a", 4),)), unreachable=True)
    assert [order.id for order in world.cycle().waiting_orders] == ["a-1"]
    world.unreachable = False
    assert [order.id for order in world.cycle().sent] == ["a-1"]
    assert world.cycle().sent == ()


def test_who_leads_no_more_does_nothing():
    world = World(snapshot(8, waiting=(job("a", 4),)), fenced=True)
    with pytest.raises(FencedError):
        world.cycle()
    assert world.outbox == []


def test_endpoints_keep_their_headroom():
    world = World(snapshot(8, waiting=(job("a", 4),)), headroom_={"pool": 6})
    assert world.cycle().sent == ()


def test_an_end_is_in_the_books_before_its_runner_forgets_it():
    running, over = (Report(job="a", attempt=at, phase=phase) for at, phase in ((2, Phase.RUNNING), (1, Phase.STOPPED)))
    world = World(snapshot(8), seen=[running, over])
    world.cycle()
    assert world.diary == ["clock", "ended a", "commit"]
    assert world.seen == [running]
