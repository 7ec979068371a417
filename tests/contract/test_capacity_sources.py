"""Where devices are counted: Ray's nodes by label, and recorded series."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.adapters.capacity.joined import JoinedCapacity
from orchestrator.adapters.capacity.ray_nodes import PLACE_LABEL, RayCapacitySource, RayNode, assign, read_nodes
from orchestrator.adapters.capacity.trace import TraceSource
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.policy.queueing.places import NodeState
from orchestrator.ports import UnreachableError
from orchestrator.service.local_nodes import nodes_for
from orchestrator.spec import Cluster, load_text
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from orchestrator.spec.errors import UserError

HERE = RayAddress(host_port="127.0.0.1:1")


def pools(*lines: str) -> tuple[PoolSpec, ...]:
    return cluster(*lines).spec.pools


def cluster(*lines: str) -> Cluster:
    text = "".join(f'\n  - {{market: spot, price: "1", device: H100, {line}}}' for line in lines)
    (found,) = load_text(f"apiVersion: tideline/v1\nkind: Cluster\nmetadata: {{name: c}}\nspec:\n  pools:{text}\n")
    assert isinstance(found, Cluster)
    return found


def node(name: str, devices: float = 4.0, *, drains_at_s: float | None = None, **labels: str) -> RayNode:
    return RayNode(node_id=name, total={"GPU": devices, "CPU": 8.0}, labels=labels, drains_at_s=drains_at_s)


SPOT = "name: spot, capacity: {source: ray, labels: {kind: spot}}"
REST = "name: rest, capacity: {source: ray}"


def test_a_node_belongs_to_the_pool_whose_labels_it_carries_and_to_no_other() -> None:
    found = assign(pools(REST, SPOT), [node("b", kind="spot", zone="a"), node("a"), node("c", kind="other")])
    assert {name: [one.name for one in each] for name, each in found.items()} == {"rest": ["a", "c"], "spot": ["b"]}


def test_a_node_without_the_resource_is_in_no_pool() -> None:
    assert assign(pools(REST), [node("a", 0.0), node("b", 0.5)]) == {"rest": ()}


def test_a_pool_sees_no_more_devices_than_its_count() -> None:
    found = assign(pools("name: few, count: 6, capacity: {source: ray}"), [node("b"), node("a"), node("c")])
    assert [(one.name, one.devices) for one in found["few"]] == [("a", 4), ("b", 2)]


@pytest.mark.parametrize(("drains_at_s", "leaves_at_s"), [(500.0, 500.0), (0.0, None)])
def test_a_draining_node_is_leaving(drains_at_s: float, leaves_at_s: float | None) -> None:
    (found,) = assign(pools(REST), [node("a", drains_at_s=drains_at_s)])["rest"]
    assert (found.state, found.leaves_at_s) == (NodeState.LEAVING, leaves_at_s)


def test_a_nodes_place_stands_below_its_pools() -> None:
    labels = {PLACE_LABEL: "rack3/block1"}
    spec = pools("name: p, topology: gcp/us, capacity: {source: ray}")
    source = RayCapacitySource(spec, lambda: HERE, lambda at: (node("a", **labels),))
    assert source.observe()[0].nodes[0].place == ("gcp", "us", "rack3", "block1")


def test_while_ray_does_not_answer_pools_are_out_of_sight_as_last_seen() -> None:
    answers = [(node("a"),), UnreachableError("gone"), (node("a"),)]

    def read(at: RayAddress) -> tuple[RayNode, ...]:
        answer = answers.pop(0)
        if isinstance(answer, UnreachableError):
            raise answer
        return answer

    source = RayCapacitySource(pools(REST), lambda: HERE, read)
    first, second, third = (source.observe()[0] for _ in range(3))
    assert (first.in_sight, second.in_sight, third.in_sight) == (True, False, True)
    assert first.nodes is second.nodes
    assert first is third


def test_a_pool_that_was_never_seen_is_out_of_sight_and_empty() -> None:
    def find() -> RayAddress:
        raise UnreachableError("no Ray yet")

    (pool,) = RayCapacitySource(pools(REST), find).observe()
    assert (pool.in_sight, pool.nodes) == (False, ())


def test_a_store_that_is_not_there_is_unreachable_in_bounded_time() -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        read_nodes(HERE)


def test_a_token_that_cannot_be_read_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="token"):
        read_nodes(RayAddress(host_port="127.0.0.1:1", token_file=tmp_path / "none"))


# --- Recorded series -------------------------------------------------------------------------------------------------

SERIES = """time,a,b
2025-10-04T00:00:00+00:00,5,1
2025-10-04T00:10:00+00:00,2,1
2025-10-04T00:20:00+00:00,9,1
"""


class Clock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def series(tmp_path: Path) -> Path:
    (tmp_path / "s.csv").write_text(SERIES)
    return tmp_path


def trace(column: str = "a", **more: str) -> str:
    extra = "".join(f", {key}: {value}" for key, value in more.items() if key != "loss")
    loss = f", loss: {more['loss']}" if "loss" in more else ""
    return f"name: t{extra}, capacity: {{source: trace, trace: s.csv, column: {column}{loss}}}"


def counts(source: TraceSource, clock: Clock) -> list[int]:
    found = []
    for minutes in (0, 10, 20, 500):
        clock.at_s = 100.0 + minutes * 60.0
        found.append(source.observe()[0].observed)
    return found


def test_a_trace_is_replayed_from_the_first_look_and_stays_at_its_end(series: Path) -> None:
    clock = Clock()
    assert counts(TraceSource(pools(trace()), series, clock), clock) == [5, 2, 9, 9]


def test_debounced_loss_takes_one_low_probe_for_a_warning(series: Path) -> None:
    clock = Clock()
    assert counts(TraceSource(pools(trace(loss="debounced")), series, clock), clock) == [5, 5, 9, 9]


def test_a_trace_has_whole_nodes_and_a_last_one_with_the_rest(series: Path) -> None:
    source = TraceSource(pools(trace(devices_per_node="2", count="5")), series, Clock())
    assert [one.devices for one in source.observe()[0].nodes] == [2, 2, 1]
    assert source.observe()[0] is source.observe()[0]


def test_a_column_that_is_not_there_is_refused_with_those_that_are(series: Path) -> None:
    with pytest.raises(UserError, match="column 'z'; there are a, b"):
        TraceSource(pools(trace("z")), series, Clock())


def test_pools_of_several_sources_come_in_the_clusters_order(series: Path) -> None:
    ray = RayCapacitySource(pools(REST), lambda: HERE, lambda at: (node("a"),))
    joined = JoinedCapacity([ray, TraceSource(pools(trace()), series, Clock())], ["t", "rest", "unknown"])
    assert [pool.name for pool in joined.observe()] == ["t", "rest"]


def test_a_local_ray_has_the_nodes_that_its_pools_name() -> None:
    found = nodes_for(
        cluster(
            "name: c, resource: CPU, devices_per_node: 2, count: 3, capacity: {source: ray, labels: {k: v}}",
            "name: g, devices_per_node: 8, count: 8, capacity: {source: ray}",
            "name: t, capacity: {source: trace, trace: s.csv, column: a}",
        )
    )
    assert [(one.get("num_gpus"), one["labels"]) for one in found] == [(None, {"k": "v"}), (None, {"k": "v"}), (8, {})]
    assert [one["num_cpus"] for one in found[:2]] == [2.0, 1.0]
