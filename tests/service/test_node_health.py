"""Sick nodes and the queues: held back, drained in order, explained, and remembered by whoever leads next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cycle import Ports, run_cycle
from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.states import JobState
from orchestrator.policy.node_health import HoldCause, NodeHold, Probed
from orchestrator.policy.queueing.decisions import WaitReason
from orchestrator.policy.queueing.orders import Note, NoteKind, Phase, Report
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.service.node_health import HeldCapacity, NodeHealth, Probes
from tests.ledger.world import World, new, sqlite


class Cluster:
    """Two nodes of two devices under a real ledger and virtual runners, with the chore before each cycle."""

    def __init__(self, folder: Path) -> None:
        nodes = (Node(name="n0", devices=2), Node(name="n1", devices=2))
        pool = Pool(name="p", resource="GPU", device="gpu", micro_usd_per_device_hour=0, nodes=nodes)
        self.world = World(sqlite(folder), pools=(pool,))
        self.alive = True
        self.looked = threading.Event()
        self.begin()

    def begin(self) -> None:
        self.probes = Probes(lambda: {"n0": "a0", "n1": "a1"}, self.asked)
        self.capacity = HeldCapacity(self.world.capacity, lambda: self.world.ledger.node_holds)
        self.chore = NodeHealth(self.world.ledger, self.capacity.nodes, self.probes)

    def asked(self, address: str) -> bool:
        """The round that a cycle begins ends after that cycle has looked: on any machine it tells only the next."""
        self.looked.wait()
        return self.alive or address != "a0"

    def restart(self) -> None:
        self.world.restart()
        self.begin()
        self.capacity.observe()

    def cycle(self, seconds: float = 1.0, times: int = 1) -> None:
        world = self.world
        for _ in range(times):
            world.clock.at_s += seconds
            self.looked.clear()
            self.chore(world.clock.now_s())
            self.looked.set()
            self.probes.join()
            run_cycle(
                Ports(
                    clock=world.clock,
                    capacity=self.capacity,
                    endpoints=world.endpoints,
                    ledger=world.ledger,
                    runner=world.runner,
                )
            )

    def dies(self, number: int, node: str = "n0", job: str = "a") -> None:
        note = Note(id=f"s-{number}", at_s=self.world.clock.now_s(), kind=NoteKind.WORKER_DIED, node=node)
        row = self.world.ledger.read.job(job)
        report = Report(job=job, attempt=row.attempt, phase=Phase.RUNNING, notes=(note,))
        self.world.ledger.record((report,), now_s=self.world.clock.now_s())

    def nodes_of(self, job: str) -> set[str]:
        return {node for lease in self.world.ledger.read.leases() if lease.holder == job for node, _ in lease.nodes}

    def state(self, job: str) -> JobState:
        return self.world.ledger.read.job(job).state


@pytest.fixture
def sick(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.world.ledger.database.close()


def hold(node: str, until_s: float | None = None) -> NodeHold:
    return NodeHold(node=node, cause=HoldCause.PERSON, since_s=0.0, until_s=until_s, detail="fan")


def test_a_node_on_which_workers_die_is_left_and_the_job_goes_on_elsewhere(sick: Cluster) -> None:
    sick.world.ledger.submit(new("a", (1, 2), work_s=1e6))
    sick.cycle(times=3)
    (first,) = sick.nodes_of("a")
    other = "n1" if first == "n0" else "n0"
    for number in range(2):
        sick.dies(number, first)
    sick.cycle(times=3)
    assert sick.world.ledger.node_holds == {}
    sick.dies(2, first)
    sick.cycle(times=60)
    assert set(sick.world.ledger.node_holds) == {first}
    assert sick.nodes_of("a") == {other}
    assert sick.state("a") is JobState.RUNNING
    events = [event.kind for event in sick.world.ledger.read.events() if event.kind.startswith("node-")]
    assert events == ["node-held"]


def test_who_waits_for_a_held_node_is_told_so_and_starts_when_it_is_released(sick: Cluster) -> None:
    sick.cycle()
    sick.world.ledger.hold_node(hold("n0"), actor="ann")
    sick.world.ledger.submit(new("wide", (4,)))
    sick.cycle(times=2)
    row = sick.world.ledger.read.job("wide")
    assert row.reason == WaitReason.NODE_HEALTH_HOLD
    sick.world.ledger.release_node("n0", actor="ann")
    sick.cycle(times=2)
    assert sick.nodes_of("wide") == {"n0", "n1"}
    with pytest.raises(LedgerError, match="is not held back"):
        sick.world.ledger.release_node("n0")


def test_a_job_that_fits_nowhere_else_waits_with_its_state_saved(sick: Cluster) -> None:
    sick.world.ledger.submit(new("wide", (4,)))
    sick.cycle(times=3)
    sick.world.ledger.hold_node(hold("n0"), actor="ann")
    sick.cycle(times=90)
    row = sick.world.ledger.read.job("wide")
    assert (row.state, row.reason) == (JobState.QUEUED, WaitReason.NODE_HEALTH_HOLD)
    assert sick.nodes_of("wide") == set()


def test_holds_and_deaths_are_known_to_whoever_leads_next(sick: Cluster) -> None:
    sick.world.ledger.submit(new("a", (1, 2)))
    sick.cycle(times=2)
    for number in range(2):
        sick.dies(number)
    sick.restart()
    sick.cycle()
    sick.dies(7)
    sick.cycle()
    assert set(sick.world.ledger.node_holds) == {"n0"}
    before = sick.world.ledger.node_holds["n0"]
    sick.restart()
    sick.cycle()
    assert sick.world.ledger.node_holds["n0"] == before
    (pool,) = sick.capacity.observe()
    assert [node.state for node in pool.nodes] == [NodeState.HELD, NodeState.OK]


def test_a_hold_ends_in_time_with_an_answer_and_old_deaths_count_no_more(sick: Cluster) -> None:
    sick.world.ledger.submit(new("a", (1, 2)))
    sick.cycle(times=2)
    for number in range(3):
        sick.dies(number)
    sick.cycle()
    sick.alive = False
    sick.cycle(seconds=1799)
    assert set(sick.world.ledger.node_holds) == {"n0"}
    sick.cycle(seconds=60)
    assert set(sick.world.ledger.node_holds) == {"n0"}, "it does not answer"
    sick.alive = True
    sick.cycle(seconds=60, times=2)
    assert sick.world.ledger.node_holds == {}
    sick.cycle(times=3)
    assert sick.world.ledger.node_holds == {}
    sick.restart()
    sick.cycle(times=3)
    assert sick.world.ledger.node_holds == {}


def test_a_node_that_answers_no_more_is_held_after_so_many_probes(sick: Cluster) -> None:
    sick.cycle(times=3)
    sick.alive = False
    sick.cycle(seconds=30, times=3)
    assert sick.world.ledger.node_holds == {}
    sick.cycle(seconds=30)
    assert sick.world.ledger.node_holds["n0"].cause is HoldCause.PROBES


def test_what_is_not_held_is_the_same_object_as_before(sick: Cluster) -> None:
    assert sick.capacity.observe()[0] is sick.world.pools[0]
    sick.cycle()
    sick.world.ledger.hold_node(hold("n0"))
    assert sick.capacity.observe()[0] is sick.capacity.observe()[0]
    leaving = replace(sick.world.pools[0].nodes[0], state=NodeState.LEAVING, leaves_at_s=5.0)
    sick.world.capacity.pools = (replace(sick.world.pools[0], nodes=(leaving,)),)
    assert sick.capacity.observe()[0].nodes == (leaving,)


def test_a_probe_that_breaks_by_itself_is_nobodys_illness() -> None:
    def broken(address: str) -> bool:
        raise RuntimeError("a bug")

    probes = Probes(lambda: {"n": "a"}, broken)
    for at_s in range(5):
        probes.ask_if_due(at_s * 100.0, 30.0)
        probes.join()
    assert probes.known() == {"n": Probed(has_answered=True)}
