"""Capacity, lease and placement: what is usable is alive, staying, free or ours, and warm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.ray_train.capacity import NodeView, room
from orchestrator.adapters.ray_train.events import Cause
from orchestrator.adapters.ray_train.governor import Bounds, Change, Governor, Habits, Progress
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from orchestrator.adapters.ray_train.protocol import Announced, AttemptPlan
from orchestrator.adapters.ray_train.sizes import Size, missing_seats, size_on
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.resize import ResizeRules
from tests.contract.ray_train_fakes import JOB

CPU = {"CPU": 1.0}
EAGER = Habits(rules=ResizeRules(dwell_s=0, settle_s=0, collect_s=5, margin=0), stay_s=3600, stall_s=2, stop_s=2)


def node(name: str, free: float, total: float | None = None, drain: float | None = None) -> NodeView:
    return NodeView(
        node_id=name, free={"CPU": free}, total={"CPU": total if total is not None else free}, drain_deadline_s=drain
    )


class Cluster:
    """A governor over a cluster that the test sets by hand."""

    def __init__(self, *nodes: NodeView, low: int = 2, high: int = 8, pin: int | None = None) -> None:
        self.nodes = nodes
        self.lease = Lease(workers=pin)
        bounds = Bounds(min_workers=low, max_workers=high, per_rank=CPU, ranks_per_worker=1, batch=BatchPlan(64, 1))
        self.governor = Governor(bounds, EAGER, lambda: self.lease, lambda: self.nodes)

    def start(self, held: dict[str, int] | None = None, ready: set[str] | None = None) -> Size | str:
        alive = self.governor.look()
        return self.governor.start_size(held or {}, alive if ready is None else ready, 0.0)

    def plan(self, *nodes: str) -> AttemptPlan:
        return AttemptPlan(attempt=1, world_size=len(nodes), ranks_per_worker=1, nodes=nodes, job=JOB)

    def change(self, *nodes: str, ready: set[str] | None = None, now_s: float = 100.0) -> Change | None:
        alive, plan = self.governor.look(), self.plan(*nodes)
        held = {name: nodes.count(name) for name in nodes}
        return self.governor.change(plan, held, alive if ready is None else ready, Progress(), now_s)


def test_what_others_hold_is_not_room_and_what_we_hold_is() -> None:
    nodes = (node("a", free=1, total=4), node("b", free=0, total=2))
    assert room(nodes, CPU, {}, 1) == {"a": 1}
    assert room(nodes, CPU, {"b": 2}, 1) == {"a": 1, "b": 2}


def test_draining_nodes_are_no_room() -> None:
    assert room((node("a", 2, drain=0.0), node("b", 2, drain=50.0), node("c", 1)), CPU, {}, 1) == {"c": 1}


def test_ranks_come_in_whole_workers() -> None:
    assert room((node("a", 5), node("b", 1)), CPU, {}, 2) == {"a": 4}


def test_a_worker_without_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="needs no resource"):
        room((node("a", 1),), {"CPU": 0.0}, {}, 1)


def test_tenths_of_a_device_add_up() -> None:
    tenths = (NodeView(node_id="a", free={"GPU": 0.30000000000000004}, total={"GPU": 1}),)
    assert room(tenths, {"GPU": 0.1}, {}, 1) == {"a": 3}


def test_the_start_takes_all_room_within_bounds() -> None:
    assert Cluster(node("a", 3), node("b", 2), high=4).start() == Size(world_size=4, nodes=("a", "a", "a", "b"))


def test_too_little_room_is_a_sentence() -> None:
    assert Cluster(node("a", 1)).start() == "there is room for 1 workers; 2 are needed"


def test_nodes_whose_agent_is_cold_are_not_counted() -> None:
    assert Cluster(node("a", 2), node("b", 2)).start(ready={"a"}) == Size(world_size=2, nodes=("a", "a"))


def test_a_pin_holds_the_size() -> None:
    cluster = Cluster(node("a", 4), pin=3)
    assert cluster.start() == Size(world_size=3, nodes=("a", "a", "a"))
    cluster.nodes = (node("a", 1, total=4),)
    assert cluster.change("a", "a", "a") is None
    cluster.lease = Lease(workers=None)
    change = cluster.change("a", "a", "a")
    assert change is not None
    assert (change.cause, change.size) == (Cause.GROW, Size(world_size=4, nodes=("a",) * 4))


def test_a_smaller_pin_shrinks() -> None:
    change = Cluster(node("a", 0, total=4), pin=2).change("a", "a", "a", "a")
    assert change is not None
    assert (change.cause, change.size) == (Cause.SHRINK, Size(world_size=2, nodes=("a", "a")))


def test_a_notice_moves_the_group_before_the_deadline() -> None:
    cluster = Cluster(node("a", 0, total=2), node("b", 0, total=2, drain=101.5))
    change = cluster.change("a", "a", "b", "b")
    assert change is not None
    assert (change.cause, change.size) == (Cause.NOTICE, Size(world_size=2, nodes=("a", "a")))


def test_notices_that_come_together_are_collected() -> None:
    cluster = Cluster(node("a", 0, total=3), node("b", 0, total=1, drain=160.0))
    assert cluster.change("a", "a", "a", "b") is None
    change = cluster.change("a", "a", "a", "b", now_s=105.1)
    assert change is not None
    assert change.cause is Cause.NOTICE


def test_below_the_minimum_there_is_no_size() -> None:
    change = Cluster(node("a", 0, total=2, drain=101.0)).change("a", "a")
    assert change is not None
    assert change.size is None


def test_a_group_with_a_dead_node_is_left_to_the_failure_path() -> None:
    assert Cluster(node("a", 0, total=2)).change("a", "gone") is None


def test_a_node_that_refused_is_not_offered_again_at_once() -> None:
    cluster = Cluster(node("a", 0, total=2), node("b", 2))
    cluster.governor.look()
    cluster.governor.refused({"b"}, 100.0)
    assert cluster.change("a", "a", now_s=110.0) is None
    assert cluster.change("a", "a", now_s=140.0) is not None


def test_hosts_are_nodes_that_could_hold_a_worker_were_they_empty() -> None:
    cluster = Cluster(node("head", 0), node("full", 0, total=2), node("leaving", 1, drain=1.0))
    cluster.governor.look()
    assert cluster.governor.hosts() == {"full", "leaving"}


def test_a_departure_is_noticed_once() -> None:
    cluster = Cluster(node("a", 0, drain=130.0), node("b", 0, drain=0.0), node("c", 0, drain=200.0))
    cluster.governor.look()
    first = cluster.governor.notices({"a", "b"}, 100.0)
    assert [(notice.node_id, notice.deadline_s) for notice in first] == [("a", 30.0), ("b", None)]
    assert cluster.governor.notices({"a", "b"}, 101.0) == []


def test_what_a_nodes_own_agent_heard_counts_before_ray_knows_it() -> None:
    cluster = Cluster(node("a", 0, total=3), node("b", 0, total=1))
    cluster.governor.announced(Announced(at_s=100.0, node_id="b", ends_at_s=101.0, detail="file: go"))
    change = cluster.change("a", "a", "a", "b")
    assert change is not None
    assert (change.cause, change.size) == (Cause.NOTICE, Size(world_size=3, nodes=("a",) * 3))
    (notice,) = cluster.governor.notices({"b"}, 100.0)
    assert (notice.deadline_s, notice.detail) == (1.0, "file: go")


def test_the_earliest_deadline_of_several_notices_counts() -> None:
    cluster = Cluster(node("a", 0, total=3), node("b", 0, total=1, drain=400.0))
    for ends_at_s in (None, 300.0, None, 500.0):
        cluster.governor.announced(Announced(at_s=100.0, node_id="b", ends_at_s=ends_at_s, detail=""))
    cluster.governor.look()
    assert [notice.deadline_s for notice in cluster.governor.notices({"b"}, 100.0)] == [200.0]


NODES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 6), min_size=1)


@given(NODES, NODES, st.integers(1, 3), st.integers(1, 20))
def test_placement_never_exceeds_a_node_and_keeps_those_that_sit(
    fits: dict[str, int], held: dict[str, int], per_worker: int, world_size: int
) -> None:
    workers = -(-world_size // per_worker)
    if sum(ranks // per_worker for ranks in fits.values()) < workers:
        with pytest.raises(ValueError, match="do not fit"):
            size_on(fits, held, world_size, per_worker)
        return
    size = size_on(fits, held, world_size, per_worker)
    seats = {name: size.nodes.count(name) for name in fits}
    assert len(size.nodes) == workers
    assert all(seats[name] * per_worker <= fits[name] for name in fits)
    could_stay = {name: min(held.get(name, 0), fits[name] // per_worker) for name in fits}
    kept = sum(min(seats[name], could_stay[name]) for name in fits)
    assert kept == min(workers, sum(could_stay.values()))


RACKS = {"a": ("z", "r1"), "b": ("z", "r2"), "c": ("z", "r1"), "d": ("y", "r9")}


def test_ranks_follow_the_places_of_their_nodes() -> None:
    size = size_on({"a": 2, "b": 1, "c": 1, "d": 1}, {}, 5, 1, RACKS)
    assert size.nodes == ("d", "a", "a", "c", "b")


def test_a_run_grows_beside_itself_before_it_grows_where_there_is_more_room() -> None:
    assert size_on({"a": 1, "b": 2, "c": 1, "d": 4}, {"a": 1}, 2, 1, RACKS).nodes == ("a", "c")
    assert size_on({"a": 1, "b": 2, "c": 1, "d": 4}, {"a": 1}, 3, 1, RACKS).nodes == ("a", "c", "b")


def test_missing_seats_name_all_seats_of_nodes_that_lack_one() -> None:
    size = Size(world_size=4, nodes=("a", "a", "b", "c"))
    assert missing_seats(size, {"a": 1, "b": 1, "c": 2}) == ("a", "a")
    assert missing_seats(size, {"a": 2, "b": 1, "c": 1}) == ()


def test_a_lease_file_is_read_when_it_changes_and_survives_rubbish(tmp_path: Path) -> None:
    lease = FileLease(tmp_path)
    assert lease.read() == Lease()
    FileLease(tmp_path).write(Lease(workers=3))
    assert lease.read() == Lease(workers=3)
    (tmp_path / "lease.json").write_text('{"workers": "many"}')
    assert lease.read() == Lease(workers=3)
    FileLease(tmp_path).write(Lease())
    assert lease.read() == Lease()


# --- Seats that a control plane leased -------------------------------------------------------------------------------


def leased(cluster: Cluster, **seats: int) -> Cluster:
    cluster.lease = Lease(workers=sum(seats.values()), seats=seats)
    return cluster


def test_a_run_starts_on_its_leased_seats_and_nowhere_else() -> None:
    size = leased(Cluster(node("a", 4), node("b", 4), node("c", 4)), b=2, c=1).start()
    assert isinstance(size, Size)
    assert sorted(size.nodes) == ["b", "b", "c"]


def test_a_start_waits_a_moment_for_seats_that_are_being_given_back_and_then_does_without() -> None:
    cluster = leased(Cluster(node("a", 2), node("b", 0, total=2)), a=2, b=2)
    alive = cluster.governor.look()
    assert cluster.governor.start_size({}, alive, 0.0) == "there is room for 2 of the 4 workers that are leased"
    size = cluster.governor.start_size({}, alive, 60.0)
    assert isinstance(size, Size)
    assert size.world_size == 2


def test_fewer_seats_are_a_shrink_not_a_notice() -> None:
    cluster = leased(Cluster(node("a", 0, total=2), node("b", 0, total=2)), a=2)
    change = cluster.change("a", "a", "b", "b")
    assert change is not None
    assert change.size is not None
    assert (change.cause, change.size.nodes) == (Cause.SHRINK, ("a", "a"))


def test_a_node_that_leaves_is_a_notice_also_where_seats_are_leased() -> None:
    cluster = leased(Cluster(node("a", 0, total=2), node("b", 0, total=2, drain=101.0)), a=2, b=2)
    change = cluster.change("a", "a", "b", "b")
    assert change is not None
    assert change.cause is Cause.NOTICE


def test_more_seats_are_one_growth_once_all_of_them_are_free() -> None:
    cluster = leased(Cluster(node("a", 0, total=2), node("b", 1, total=2)), a=2, b=2)
    assert cluster.change("a", "a") is None
    cluster.nodes = (node("a", 0, total=2), node("b", 2))
    change = cluster.change("a", "a")
    assert change is not None
    assert change.size is not None
    assert (change.cause, change.size.world_size) == (Cause.GROW, 4)


def test_other_seats_of_the_same_number_are_moved_to() -> None:
    cluster = leased(Cluster(node("a", 0, total=2), node("b", 2), node("c", 2)), a=2, b=2)
    cluster.change("a", "a", "b", "b")
    leased(cluster, a=2, c=2)
    cluster.nodes = (node("a", 0, total=2), node("b", 0, total=2), node("c", 2))
    change = cluster.change("a", "a", "b", "b", now_s=200.0)
    assert change is None or (change.size is not None and "b" not in change.size.nodes)
    change = cluster.change("a", "a", "b", "b", now_s=300.0)
    assert change is not None
    assert change.size is not None
    assert set(change.size.nodes) <= {"a", "c"}


def test_a_run_on_its_seats_is_left_alone() -> None:
    cluster = leased(Cluster(node("a", 0, total=2), node("b", 2)), a=2)
    assert cluster.change("a", "a") is None


def test_a_group_is_overdue_on_seats_that_are_not_its_own_any_more() -> None:
    cluster = leased(Cluster(node("a", 0, total=2), node("b", 0, total=2)), a=2)
    group = cluster.plan("a", "a", "b", "b")
    assert not cluster.governor.overdue(group, 1e9)
    cluster.lease = replace(cluster.lease, others_end_s=50.0)
    assert not cluster.governor.overdue(group, 50.0)
    assert cluster.governor.overdue(group, 50.1)
    assert not cluster.governor.overdue(cluster.plan("a", "a"), 50.1)
