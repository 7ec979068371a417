"""What a loaded spec is: frozen, typed, with defaults, and able to become a file again."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.spec import Cluster, Endpoint, Scenario, Study, TrainJob, load_file, load_text
from orchestrator.spec.base import Metadata
from orchestrator.spec.cluster_rules import Window
from orchestrator.spec.job_parts import Batch, Checkpoint, Data, Workers
from orchestrator.spec.problems import FindingsError
from orchestrator.spec.train_job import TrainJobSpec
from tests.spec.documents import ALL, CLUSTER, ENDPOINT, JOB, SCENARIO, STUDY, spoil

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "cluster-configs" / "examples").glob("*.yaml"))


def one(text: str):
    (spec,) = load_text(text)
    return spec


def test_a_job_has_seconds_bytes_decimals_and_tuples() -> None:
    job = one(
        spoil(
            JOB,
            "  deadline: 8h",
            '  budget: {usd: "5000"}',
            "  workers: {min: 1, max: 2, resources: {memory: 1GiB}}",
            "  after: [a, b]",
            "  optimizer: {lr: 3e-4, betas: [0.9, 0.99]}",
        )
    )
    assert isinstance(job, TrainJob)
    assert job.spec.deadline == 28800.0
    assert job.spec.budget is not None
    assert job.spec.budget.usd == Decimal(5000)
    assert job.spec.workers.resources.memory == 2**30
    assert job.spec.after == ("a", "b")
    assert job.spec.optimizer.betas == (0.9, 0.99)


def test_what_a_job_leaves_out_has_a_default() -> None:
    spec = one(JOB).spec
    assert (spec.queue, spec.priority, spec.data.seed, spec.on_nan, spec.strict) == ("default", 50, 0, "stop", False)
    assert (spec.checkpoint.every, spec.checkpoint.snapshot_every_steps, spec.checkpoint.storage) == (600.0, 20, None)
    assert (spec.workers.coupling, spec.deepspeed.zero_stage, spec.register) == ("tight", 2, None)


def test_arguments_keep_the_types_of_yaml_1_2() -> None:
    job = one(spoil(JOB, "  args: {a: 12, b: '12', c: 1e-3, d: true, e: no, f: [1, x], g: {h: 22:00}, i: null}"))
    assert job.spec.args == {
        "a": 12, "b": "12", "c": 1e-3, "d": True, "e": "no", "f": [1, "x"], "g": {"h": "22:00"}, "i": None,
    }  # fmt: skip


def test_resources_for_ray_leave_out_what_is_zero() -> None:
    line = "  workers: {min: 1, max: 2, resources: {CPU: 4, memory: 1GiB, custom: {disk: 0.5}}}"
    assert one(spoil(JOB, line)).spec.workers.resources.as_ray() == {"CPU": 4.0, "memory": 2.0**30, "disk": 0.5}


def test_a_spec_cannot_be_changed() -> None:
    job = one(JOB)
    with pytest.raises(ValidationError):
        job.spec.steps = 3


def test_a_cluster_has_wall_times_and_its_own_kind_of_capacity() -> None:
    cluster = one(CLUSTER)
    assert isinstance(cluster, Cluster)
    window = cluster.spec.windows[0]
    assert (window.start, window.end, window.timezone) == (dt.time(22), dt.time(6), "Europe/Berlin")
    assert window.days == ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    assert (cluster.spec.pools[0].capacity.source, cluster.spec.pools[0].price) == ("ray", Decimal("1.10"))


def test_equal_ends_are_a_whole_day_and_not_an_error() -> None:
    assert one(spoil(CLUSTER, '  windows: [{name: w, start: "00:00", end: "00:00", timezone: UTC}]'))


def test_a_study_holds_a_whole_job() -> None:
    study = one(STUDY)
    assert isinstance(study, Study)
    assert study.spec.template.checkpoint.keep == 3
    assert study.spec.space["optimizer.lr"].type == "loguniform"


def test_an_endpoint_knows_its_tiers_and_whether_it_is_loopback() -> None:
    endpoint = one(ENDPOINT)
    assert isinstance(endpoint, Endpoint)
    assert endpoint.spec.tiers.present() == ("interactive", "batch")
    assert endpoint.spec.listen.is_loopback
    for host, loopback in (("::1", True), ("localhost", True), ("127.1.2.3", True), ("10.0.0.1", False), ("h", False)):
        assert endpoint.spec.listen.model_copy(update={"host": host}).is_loopback is loopback


def test_a_scenario_has_worker_seconds_and_an_aware_start() -> None:
    scenario = one(spoil(SCENARIO, "  start: 2025-10-04T00:10:00-07:00"))
    assert isinstance(scenario, Scenario)
    assert scenario.spec.job.work == 36000.0
    assert scenario.spec.start == dt.datetime(2025, 10, 4, 7, 10, tzinfo=dt.UTC)
    assert (scenario.spec.capacity.loss, scenario.spec.on_demand.max_devices, scenario.spec.policy) == (
        "drop",
        0,
        "tideline",
    )


ALL_SPECS = [spec for path in EXAMPLES for spec in load_file(path)] + [one(text) for text in ALL.values()]
IDS = [f"{type(spec).__name__}-{spec.metadata.name}" for spec in ALL_SPECS]


@pytest.mark.parametrize("spec", ALL_SPECS, ids=IDS)
def test_a_spec_becomes_a_document_that_reads_back_equal(spec) -> None:
    assert one(json.dumps(spec.to_document())) == spec


@pytest.mark.parametrize("spec", ALL_SPECS, ids=IDS)
def test_a_spec_survives_pickling_and_copying(spec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert copy.deepcopy(spec) == spec


def test_code_builds_specs_from_typed_values() -> None:
    job = TrainJob(
        metadata=Metadata(name="j"),
        spec=TrainJobSpec(
            workers=Workers(min=1, max=2),
            task="my.code:task",
            data=Data(dataset="d@1"),
            batch=Batch(global_batch_size=8, micro_batch_size=2),
            steps=10,
            deadline=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
        ),
    )
    assert one(json.dumps(job.to_document())) == job


def test_code_gives_seconds_bytes_and_times_as_they_are() -> None:
    checkpoint = Checkpoint(every=90.0, keeper_memory=2048)
    assert checkpoint.to_document() == {"every": "90s", "keeper_memory": "2KiB"}
    window = Window(name="w", start=dt.time(22), end=dt.time(6), timezone="UTC", days=("fri",))
    assert window.to_document()["start"] == "22:00"


def test_code_that_builds_a_wrong_spec_is_told_why() -> None:
    with pytest.raises(ValidationError) as caught:
        Workers(min=3, max=2)
    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, FindingsError)
    assert str(cause) == "min: 3 is above max (2); min must be at most max"


def test_importing_specs_loads_nothing_heavy() -> None:
    """Every verb of the command line imports this room first: Ray and torch would cost it seconds."""
    heavy = {"ray", "torch", "deepspeed", "numpy", "fastapi", "sqlalchemy", "matplotlib"}
    program = f"import sys, orchestrator.spec; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
