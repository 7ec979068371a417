"""The shipped example cluster and job as snapshot values."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from orchestrator.policy.queueing.from_spec import (
    Progress,
    granted_to,
    job_of,
    levels_of,
    pool_of,
    queues_of,
    tenant_of,
    windows_of,
)
from orchestrator.policy.queueing.parties import Contribution, Purse, Quota
from orchestrator.policy.queueing.places import Node
from orchestrator.policy.queueing.values import Spending
from orchestrator.spec import Cluster, TrainJob, load_one, load_text

EXAMPLES = Path(__file__).parents[3] / "cluster-configs" / "examples"
CLUSTER = load_one(EXAMPLES / "cluster.yaml", Cluster)
NEW = Progress(submitted_s=1000.0)


def read_job(workers="{min: 4, max: 8, resources: {GPU: 1}}", more=""):
    text = f"""
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: j, tenant: research}}
spec:
  queue: nightly
  workers: {workers}
  task: jobs.models.gpt:task
  data: {{dataset: python-stdlib@latest}}
  batch: {{global_batch_size: 24, micro_batch_size: 1}}
  steps: 100
  {more}
"""
    (found,) = load_text(text, "job.yaml")
    assert isinstance(found, TrainJob)
    return found


def test_a_job_may_hold_only_sizes_that_are_faster():
    assert job_of(read_job(), CLUSTER, NEW).sizes == (4, 5, 6, 8)


@pytest.mark.parametrize(
    ("resources", "counted"),
    [
        ("{GPU: 1, CPU: 4}", ("GPU", 1)),
        ("{GPU: 0.5}", ("GPU", 1)),
        ("{GPU: 4}", ("GPU", 4)),
        ("{CPU: 2}", ("CPU", 2)),
        ("{custom: {TPU: 2}}", ("TPU", 2)),
    ],
)
def test_a_worker_is_counted_in_whole_devices(resources, counted):
    found = job_of(read_job(f"{{min: 1, max: 2, resources: {resources}}}"), CLUSTER, NEW)
    assert (found.resource, found.devices_per_worker) in {counted, ("CPU", 1)}
    assert found.resource == counted[0] or counted[0] == "TPU"


@pytest.mark.parametrize(
    ("line", "deadline_s"),
    [("", None), ("deadline: 8h", 29_800.0), ("deadline: 2030-01-01T00:00:00Z", 1_893_456_000.0)],
)
def test_deadlines_are_instants(line, deadline_s):
    assert job_of(read_job(more=line), CLUSTER, NEW).deadline_s == deadline_s


def test_what_was_spent_is_gone_from_the_budget():
    spent = Progress(submitted_s=0.0, spent_micro_usd=1_500_000, steps_done=40)
    found = job_of(read_job(more='budget: {usd: "2"}'), CLUSTER, spent)
    assert (found.spending, found.steps_left) == (Spending(micro_usd=500_000), 60)


def test_queues_and_tenants_of_the_example():
    nightly = queues_of(CLUSTER)[0]
    assert (nightly.name, nightly.weight, nightly.cohort, nightly.min_run_s) == ("nightly", 2.0, "everybody", 600.0)
    assert nightly.quotas[0] == Quota(pool="h100-spot", nominal=120, borrow=80, lend=40)
    research = tenant_of(CLUSTER.spec.tenants[1], spent=Purse(micro_usd=500), recent=())
    assert research.contributions == (Contribution(pool="own-rack", devices=10, recall_grace_s=300.0),)
    assert research.purse == Purse(micro_usd=2_499_999_500, device_ms=18_000_000_000, iterations=200)


def test_without_grants_nothing_is_metered():
    assert granted_to(()) is None


def test_a_cluster_without_queues_has_one_that_may_use_everything():
    bare = CLUSTER.model_copy(update={"spec": CLUSTER.spec.model_copy(update={"queues": ()})})
    (default,) = queues_of(bare)
    assert default.name == "default"
    assert {quota.pool for quota in default.quotas} == {pool.name for pool in CLUSTER.spec.pools}


def test_nodes_stand_below_their_pool():
    pool = pool_of(CLUSTER.spec.pools[0], [Node(name="n", devices=8, place=("nvl0",))], headroom=8)
    assert pool.nodes[0].place == ("gcp", "us-central1", "a", "rack3", "nvl0")
    assert (pool.resource, pool.micro_usd_per_device_hour, pool.headroom) == ("GPU", 2_410_000, 8)


def test_windows_and_levels_of_the_example():
    offpeak, weekend = windows_of(CLUSTER)
    assert (offpeak.window.opens, offpeak.window.days, offpeak.grace_s) == (dt.time(22), frozenset(range(5)), 120.0)
    assert weekend.window.days == frozenset({5, 6})
    assert [level.name for level in levels_of(CLUSTER)] == ["cloud", "region", "zone", "rack"]
    assert levels_of(CLUSTER)[0].bandwidth_bytes_per_s == 125_000_000
