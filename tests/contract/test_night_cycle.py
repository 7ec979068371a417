"""A night through the real cycle in virtual time: recorded endpoints lend, a job grows and gives back in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.adapters.endpoints.demand import DemandSeries
from orchestrator.adapters.endpoints.recorded import RecordedEndpoints, Recording
from orchestrator.cycle import Ports, run_cycle
from orchestrator.policy.queueing.decisions import ChangeCause, Decisions
from orchestrator.policy.queueing.orders import Order, Report
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.values import LeaseState, Snapshot
from tests.policy.lending.worlds import MONDAY_S, STEP_S, TIMES, terms
from tests.policy.queueing.build import apply, job, snapshot

HOURS = [40.0] * 7 + [80.0, 120.0] + [120.0] * 10 + [80.0, 40.0, 40.0, 40.0, 40.0]


@dataclass
class Night:
    """Every port but the endpoints: drains take as long as they were given, and the clock is moved by hand."""

    snap: Snapshot
    at_s: float = MONDAY_S
    causes: list[ChangeCause] = field(default_factory=list)

    def now_s(self) -> float:
        return self.at_s

    def observe(self) -> tuple[Pool, ...]:
        return self.snap.pools

    def snapshot(self, pools: tuple[Pool, ...], *, now_s: float) -> Snapshot:
        over = (lease for lease in self.snap.leases if lease.until_s is None or lease.until_s > now_s)
        return replace(self.snap, pools=pools, now_s=now_s, leases=tuple(over))

    def commit(self, snap: Snapshot, decisions: Decisions) -> None:
        self.causes += [change.cause for change in decisions.changes]
        self.snap = apply(snap, decisions, drain=True)

    def unsent(self) -> tuple[Order, ...]:
        return ()

    def sent(self, orders: tuple[Order, ...]) -> None:
        assert not orders, "nothing is sent here"

    def reports(self) -> tuple[Report, ...]:
        return ()

    def record(self, reports: tuple[Report, ...], *, now_s: float) -> tuple[Report, ...]:
        return reports

    def acknowledge(self, ended: tuple[Report, ...]) -> None:
        assert not ended, "nothing ends here"

    def ask(self, order: Order) -> None:
        raise AssertionError("nothing is asked here")


def test_training_has_the_night_and_the_endpoint_its_morning() -> None:
    of = terms()
    series = DemandSeries(name="m", tick_s=3600.0, rps=tuple(HOURS * 3))
    begun = snapshot(of.devices, waiting=(job("nightly", range(2, 19)),))
    pools = (replace(begun.pools[0], name="gpu"),)
    queues = tuple(
        replace(one, quotas=tuple(replace(quota, pool="gpu") for quota in one.quotas)) for one in begun.queues
    )
    world = Night(replace(begun, pools=pools, queues=queues))
    endpoints = RecordedEndpoints((Recording(name="m", terms=of, demand=series, begins_s=MONDAY_S),), world)
    held_by_hour: dict[int, int] = {}
    while world.at_s < MONDAY_S + 60 * 3600:
        kept: Mapping[str, int] = endpoints.headroom()
        run_cycle(Ports(clock=world, capacity=world, endpoints=endpoints, ledger=world, runner=world))
        training = sum(lease.devices for lease in world.snap.leases if lease.state is LeaseState.HELD)
        draining = sum(lease.devices for lease in world.snap.leases if lease.state is LeaseState.DRAINING)
        standing = endpoints.standing("m")
        # What serves is never in training's hands, draining included, and demand is always served.
        assert training + draining + standing.serving <= of.devices
        assert training <= of.devices - kept["gpu"]
        assert standing.serving >= of.replicas_for(series.at(world.at_s - MONDAY_S))
        held_by_hour[int((world.at_s - MONDAY_S) // 3600)] = training
        world.at_s += STEP_S
    assert held_by_hour[24 + 3] >= 12 > held_by_hour[24 + 12]
    assert ChangeCause.RECALL in world.causes
    assert ChangeCause.GROWS in world.causes
    assert TIMES.snapshot_s + TIMES.drain_s <= begun.rules.drain_grace_s
