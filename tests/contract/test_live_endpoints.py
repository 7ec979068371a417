"""Endpoints that hold leases behind the cycle's port: what is seen decides when a device changes hands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from sqlalchemy import select

from orchestrator.adapters.endpoints.holders import EndpointHolders, Holding, live_terms, recall_times
from orchestrator.adapters.endpoints.memory import write_memory
from orchestrator.adapters.endpoints.sight import Sight
from orchestrator.cycle import Ports, run_cycle
from orchestrator.ledger import tables
from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import new_holder
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.lending.rates import Counter
from orchestrator.policy.lending.values import Late
from orchestrator.policy.queueing.decisions import Admit, ChangeCause, Evict, Resize, workers_in
from orchestrator.policy.queueing.orders import Measured, Order, Phase, Report
from orchestrator.policy.queueing.places import Pool, flat_pool
from orchestrator.policy.resize import Outlook, ResizeRules, RunPlan
from orchestrator.ports import UnreachableError
from orchestrator.service.holdings import Holdings, Revisions
from orchestrator.service.recall_leads import EVERY_S, RECALL_LEAD, RecallLeads
from orchestrator.spec import Cluster, load_text
from tests.policy.lending.worlds import MONDAY_S, known_days, terms

STEP_S = 30.0

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
    slow_stop_s: float | None = None

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
            found.append(Report(job=job, attempt=attempt, phase=phase, measured=self.measured(job)))
        return tuple(found)

    def measured(self, job: str) -> Measured | None:
        if self.slow_stop_s is None or job != "train":
            return None
        rules = ResizeRules(dwell_s=0.0, settle_s=0.0, collect_s=10.0, margin=0.1)
        plan = RunPlan(batch=BatchPlan(420, 1), min_workers=1, max_workers=7, rules=rules)
        outlook = (Outlook(workers=7, expected_s=900.0),)
        return Measured(plan=plan, outlook=outlook, stall_s=5.0, stop_s=3.0, slow_stop_s=self.slow_stop_s)

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


def test_what_moves_devices_is_a_line_of_the_log_once(plane: Plane) -> None:
    with structlog.testing.capture_logs() as lines:
        plane.cycle(12, 60.0)
        plane.world.rps = 55.0
        plane.cycle(12)
    said = [one["said"].split(" ", 1)[1] for one in lines if one["event"] == "lending"]
    assert said[0].startswith("lend ")
    assert any(line.startswith("recall ") for line in said)
    assert len(said) < 12, "a cycle that moves nothing says nothing"


def test_training_that_stops_slowly_is_called_back_earlier_and_that_is_said_once(plane: Plane) -> None:
    """recall_lead: 4m, of which a cold start takes two while none was measured."""
    plane.cycle(12, 60.0)
    assert plane.devices()["train"] >= 4
    assert plane.endpoints.leads() == {"pool": (240.0, 240.0)}
    chore = RecallLeads(plane.ledger, plane.endpoints)
    chore(plane.world.now)
    plane.world.slow_stop_s = 300.0
    plane.cycle(2)
    assert plane.endpoints.leads() == {"pool": (240.0, 420.0)}
    for times in (1, 2, 3):
        chore(plane.world.now + times * EVERY_S)
    told = [one for one in plane.ledger.read.events(job="talk") if one.kind == RECALL_LEAD]
    assert [(one.data["of"], one.data["took_s"], one.data["allowed_s"]) for one in told] == [("train", 300.0, 120.0)]
    shown = plane.endpoints.describe("talk")
    assert shown is not None
    assert (shown["lending"]["recall_lead_s"], bool(shown["lending"]["recall_lead_detail"])) == (420.0, True)


def test_how_long_recalls_took_is_known_to_whoever_decides_next(plane: Plane) -> None:
    plane.cycle(3)
    plane.endpoints.lenders["talk"].drains_s = (100.0, 200.0, 150.0)
    plane.cycle(2, 60.0)
    assert plane.endpoints.leads() == {"pool": (240.0, 320.0)}
    plane.restart()
    plane.cycle()
    assert plane.endpoints.leads() == {"pool": (240.0, 320.0)}
    assert plane.endpoints.terms["talk"].late == Late(allowed_s=120.0, took_s=200.0)


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
