"""Endpoints that hold leases behind the cycle's port: what is seen decides when a device changes hands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.adapters.endpoints.holders import EndpointHolders, Holding, live_terms, recall_times
from orchestrator.adapters.endpoints.live import Lender, Seen, found, observed
from orchestrator.adapters.endpoints.memory import read_memory, write_memory
from orchestrator.adapters.endpoints.sight import Sight
from orchestrator.cycle import Ports, run_cycle
from orchestrator.ledger import tables
from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.lending.decide import Memory, Sample, decide_lending
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.lending.values import Keep, Lend, Loan, Recall, RecallTimes, Return, Standing, Terms
from orchestrator.policy.queueing.decisions import Admit, ChangeCause, Evict, Resize, workers_in
from orchestrator.policy.queueing.orders import Order, Phase, Report
from orchestrator.policy.queueing.places import Pool, flat_pool
from orchestrator.ports import UnreachableError
from orchestrator.service.holdings import Holdings, Revisions
from orchestrator.spec import Cluster, load_text
from tests.policy.lending.worlds import MONDAY_S, terms

STEP_S = 30.0


def known_days(of: Terms, day: float = 150.0, night: float = 40.0) -> Memory:
    """Two days, busy by day and quiet by night, hours of rising and falling between."""
    memory, standing = Memory(), Standing(serving=of.replicas)
    half = (day + night) / 2
    hours = [night] * 7 + [half] + [day] * 12 + [half] + [night] * 3
    for tick in range(2 * 720):
        at_s = MONDAY_S - 2 * 86_400 + tick * 120
        hour, part = divmod(tick / 30, 1)
        rps = hours[int(hour) % 24] * (1 - part) + hours[(int(hour) + 1) % 24] * part
        _, memory = decide_lending(of, standing, memory, Sample(at_s=at_s, rps=rps), now_s=at_s)
    return memory


# --- One lender -------------------------------------------------------------------------------------------------------


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


def test_one_that_remembers_disturbs_no_night_and_one_that_does_not_calls_everything_back(tmp_path: Path) -> None:
    of, file = terms(), tmp_path / "e.json"
    night = replace(known_days(of))
    at_s = (night.history.last_s or 0.0) + 3 * 3600.0
    place = Place(at_s=at_s, rps=40.0, held=10, replicas=10)
    before = Lender(night)
    for _ in range(3):
        place.look(before, of)
    write_memory(file, before.memory)
    assert read_memory(file) == before.memory
    after, stranger = Lender(read_memory(file)), Lender(read_memory(tmp_path / "none.json"))
    place.look(after, of)
    stranger.look(of, place.see(), now_s=place.at_s)
    assert after.owed == 10
    assert stranger.owed == 20


def test_a_recall_is_counted_on_as_measured_once_there_were_some() -> None:
    assert recall_times((), ()).lead_s == 180.0
    assert recall_times((5.0,), (300.0, 2.0)).cold_start_s == 300.0
    assert recall_times((5.0, 6.0, 7.0), (8.0, 9.0, 7.0)) == RecallTimes(snapshot_s=0.0, drain_s=7.0, cold_start_s=9.0)


# --- Through the cycle and the real books -----------------------------------------------------------------------------

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: c}
spec:
  pools: [{name: pool, device: cpu, resource: CPU, count: 7, market: on_demand, price: "1", capacity: {source: ray}}]
  lending: {pools: [pool], min_slice: 10m, recall_lead: 4m}
"""
ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: talk}
spec:
  model: m@1
  engine: {name: echo}
  replicas: {min: 1, max: 6, rps: 10, resources: {CPU: 1}}
  tiers: {interactive: {slo: {latency: 2s}}}
"""
JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: train}
spec:
  workers: {min: 1, max: 7, resources: {CPU: 1}}
  task: t:t
  data: {dataset: d@1}
  batch: {global_batch_size: 420, micro_batch_size: 1}
  steps: 1000000
"""


@dataclass
class World:
    """Time, demand, and a runner whose jobs do what they are told one look later."""

    now: float = MONDAY_S + 3600.0
    rps: float = 8.0
    total: float = 0.0
    workers: dict[str, int] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    old: dict[str, list[int]] = field(default_factory=dict)
    acknowledged: list[Report] = field(default_factory=list)
    hears: bool = True
    extra: int = 0

    def now_s(self) -> float:
        return self.now

    def pass_time(self, seconds: float = STEP_S) -> None:
        self.now += seconds
        self.total += self.rps * seconds

    def observe(self) -> tuple[Pool, ...]:
        return (flat_pool("pool", 7, resource="CPU"),)

    def sight(self, job: str) -> Sight:
        counters = (Counter(source="r", at_s=self.now, total=self.total),) if self.hears else ()
        answering, urls = self.workers.get(job, 0), {"interactive": "http://x"}
        return Sight(answering=answering, counters=counters, urls=urls, ref="m@1", extra=self.extra)

    def ask(self, order: Order) -> None:
        what = order.what
        if isinstance(what, Evict):
            self.workers[what.job] = 0
            return
        assert isinstance(what, Admit | Resize)
        if order.attempt != self.attempts.get(what.job):
            self.old.setdefault(what.job, []).extend([self.attempts[what.job]] if what.job in self.attempts else [])
            self.attempts[what.job] = order.attempt
        self.workers[what.job] = workers_in(what.placement)

    def reports(self) -> tuple[Report, ...]:
        found = []
        for job, attempt in self.attempts.items():
            found += [Report(job=job, attempt=one, phase=Phase.STOPPED) for one in self.old.get(job, [])]
            phase = Phase.RUNNING if self.workers[job] else Phase.STOPPED
            found.append(Report(job=job, attempt=attempt, phase=phase))
        return tuple(found)

    def acknowledge(self, ended: tuple[Report, ...]) -> None:
        for one in ended:
            if one.attempt in self.old.get(one.job, []):
                self.old[one.job].remove(one.attempt)
            elif self.attempts.get(one.job) == one.attempt:
                del self.attempts[one.job]


@dataclass
class Plane:
    """The cycle over a real ledger, an endpoint and a job."""

    ledger: Ledger
    cluster: Cluster
    world: World
    endpoints: EndpointHolders

    def cycle(self, times: int = 1, seconds: float = STEP_S) -> None:
        for _ in range(times):
            world = self.world
            run_cycle(Ports(clock=world, capacity=world, endpoints=self.endpoints, ledger=self.ledger, runner=world))
            world.pass_time(seconds)

    def devices(self) -> dict[str, int]:
        leases = self.ledger.read.leases()
        return {job: sum(one.devices for one in leases if one.holder == job) for job in ("talk", "train")}

    def restart(self) -> None:
        self.endpoints = holders(self.ledger, self.cluster, self.world, self.memories)

    memories: Path | None = None


def holders(ledger: Ledger, cluster: Cluster, world: World, memories: Path | None) -> EndpointHolders:
    return EndpointHolders(
        Holdings(ledger),
        terms=lambda one, times: live_terms(cluster, one, times),
        sight=world.sight,
        clock=world,
        memories=memories,
    )


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    world = World()
    ledger = Ledger(f"sqlite:///{tmp_path / 'tide.db'}", holder="test", clock=world.now_s, patience_s=1e9)
    upgrade(ledger.database)
    assert ledger.lead()
    (cluster,) = load_text(CLUSTER)
    assert isinstance(cluster, Cluster)
    ledger.apply(cluster)
    for text in (ENDPOINT, JOB):
        (spec,) = load_text(text)
        ledger.submit(new_holder(spec, cluster, now_s=world.now))  # type: ignore[arg-type]
    memories = tmp_path / "endpoints"
    known = terms(devices=6, replica_rps=10.0)
    write_memory(memories / "talk.json", known_days(known, day=50.0, night=8.0))
    found = Plane(ledger, cluster, world, holders(ledger, cluster, world, memories))
    found.memories = memories
    try:
        yield found
    finally:
        ledger.close()


def test_training_has_the_night_and_is_off_the_devices_before_the_morning(plane: Plane) -> None:
    plane.cycle(3)
    assert plane.devices() == {"talk": 6, "train": 1}  # it is sized for its peak, and is so first
    assert plane.ledger.read.job("talk").shape.kind == "Endpoint"
    plane.cycle(12, 60.0)
    night = plane.devices()
    assert night["train"] >= 4
    assert night["talk"] + night["train"] == 7
    shown = plane.endpoints.describe("talk")
    assert shown is not None
    assert shown["lending"]["lent"] == 6 - night["talk"]
    while plane.world.rps < 50.0:
        plane.world.rps += 0.2  # no faster than ever
        plane.cycle()
        assert plane.devices()["talk"] * 10 >= plane.world.rps
    assert plane.devices() == {"talk": 6, "train": 1}
    with plane.ledger.database.reading() as connection:
        assert check(connection) == []


def test_an_endpoint_that_is_heard_of_no_more_has_its_devices_back(plane: Plane) -> None:
    plane.cycle(12, 60.0)
    assert plane.devices()["talk"] < 4
    plane.world.hears = False
    plane.cycle(8, 60.0)
    assert plane.devices() == {"talk": 6, "train": 1}


def test_what_nobody_trains_on_is_not_lent(plane: Plane) -> None:
    plane.cycle(12, 60.0)
    assert plane.devices()["train"] >= 4
    plane.ledger.cancel("train")
    plane.cycle(6, 60.0)
    assert plane.devices() == {"talk": 6, "train": 0}
    shown = plane.endpoints.describe("talk")
    assert shown is not None
    assert shown["lending"]["reason"] == "not_wanted"


def test_a_device_on_which_a_new_replica_starts_before_an_old_one_goes_is_nobodys(plane: Plane) -> None:
    plane.cycle(3)
    assert plane.devices() == {"talk": 6, "train": 1}
    plane.ledger.cancel("train")
    plane.cycle(2)
    plane.world.extra = 1
    (spec,) = load_text(JOB.replace("train}", "other}"))
    plane.ledger.submit(new_holder(spec, plane.cluster, now_s=plane.world.now))  # type: ignore[arg-type]
    plane.cycle(2)
    assert [one.holder for one in plane.ledger.read.leases()] == ["talk"]
    plane.world.extra = 0
    plane.cycle(2)
    assert {one.holder: one.devices for one in plane.ledger.read.leases()} == {"talk": 6, "other": 1}


def test_a_new_orchestrator_goes_on_with_the_night(plane: Plane) -> None:
    plane.cycle(12, 60.0)
    night = plane.devices()
    assert night["train"] >= 4
    plane.restart()
    plane.cycle(3)
    assert plane.devices() == night


def test_a_pinned_endpoint_lends_nothing_and_a_cancelled_one_leaves(plane: Plane) -> None:
    plane.cycle(4)
    plane.ledger.pin("talk", 3)
    plane.cycle(4)
    assert plane.devices() == {"talk": 3, "train": 4}
    assert plane.endpoints.owed() == {"pool": (("talk", 3),)}
    plane.ledger.cancel("talk")
    plane.cycle(4)
    assert plane.devices() == {"talk": 0, "train": 7}
    assert plane.ledger.read.job("talk").state is JobState.CANCELLED


def test_another_file_changes_what_an_endpoint_is_owed_and_reaches_its_process_whoever_leads(plane: Plane) -> None:
    plane.cycle(3)
    assert plane.devices() == {"talk": 6, "train": 1}
    told: list[dict[str, Any]] = []
    chore = Revisions(plane.ledger, lambda job, document: told.append({"job": job, **document["spec"]["replicas"]}))
    chore(plane.world.now)
    chore(plane.world.now)
    assert [one["max"] for one in told] == [6]
    (spec,) = load_text(ENDPOINT.replace("max: 6, rps: 10", "max: 4"))
    new = new_holder(spec, plane.cluster, now_s=plane.world.now)  # type: ignore[arg-type]
    assert plane.ledger.submit(new).revised == ("talk",)
    chore(plane.world.now)
    assert [one["max"] for one in told] == [6, 4]
    plane.ledger.resign()  # whoever leads next has it from the disk, and says it again
    assert plane.ledger.lead()
    Revisions(plane.ledger, lambda job, document: told.append(document["spec"]["replicas"]))(plane.world.now)
    assert [one["max"] for one in told] == [6, 4, 4]
    plane.cycle(3)
    assert plane.devices() == {"talk": 4, "train": 3}
    assert plane.ledger.read.job("talk").shape.sizes[-1] == 4
    with plane.ledger.database.reading() as connection:
        assert check(connection) == []


def test_an_endpoint_is_told_again_of_its_file_when_its_folder_could_not_be_written(plane: Plane) -> None:
    plane.cycle(1)
    told, full = [], [True]

    def revise(job: str, document: object) -> None:
        if full.pop():
            raise UnreachableError("no space left on device")
        told.append(job)

    chore = Revisions(plane.ledger, revise)
    chore(plane.world.now)
    full.append(False)
    chore(plane.world.now)
    assert told == ["talk"]


def test_without_a_figure_of_what_a_replica_serves_nothing_is_lent(plane: Plane) -> None:
    (endpoint,) = load_text(ENDPOINT.replace("rps: 10, ", ""))
    holding = Holding(
        job="talk", endpoint=endpoint, pool="pool", held=6, most=6, devices_per_replica=1, observed=7  # type: ignore[arg-type]
    )  # fmt: skip
    assert live_terms(plane.cluster, holding, recall_times((), ())) is None
    assert json.loads(json.dumps(plane.ledger.read.document("talk")))["kind"] == "Endpoint"


def test_a_jump_beyond_every_rise_calls_back_at_once_and_the_job_is_told_why(plane: Plane) -> None:
    plane.cycle(12, 60.0)
    night = plane.devices()
    assert night["train"] >= 4
    plane.world.rps = 55.0
    while not plane.endpoints.urgent():
        assert plane.world.now < MONDAY_S + 2 * 3600.0
        plane.cycle()
    plane.cycle()
    with plane.ledger.database.reading() as connection:
        told = [json.loads(row.data) for row in connection.execute(select(tables.events)) if row.kind == "resizing"]
    assert ChangeCause.EMERGENCY.value in {one["cause"] for one in told}
    plane.cycle(4)
    assert plane.devices() == {"talk": 6, "train": 1}
    assert plane.endpoints.urgent() == {}
