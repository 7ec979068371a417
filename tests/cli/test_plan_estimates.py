"""`tide plan FILE --device`: time, money, energy and memory of a job, and what can never be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.planner.model import gpt

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: big}}
spec:
  workers: {{min: {min}, max: {max}, resources: {{GPU: 1}}}}
  task: {task}
  args: {{layers: {layers}, d_model: {d_model}, seq_len: 512}}
  data: {{dataset: python-stdlib@latest}}
  batch: {{global_batch_size: 8192, micro_batch_size: 8}}
  steps: 2000
  deepspeed: {{zero_stage: {stage}}}
{more}
"""
CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {{name: c}}
spec:
  pools:
    - {{name: first, device: {device}, market: spot, price: "2.00", power_w: 700, capacity: {{source: ray}}}}
  queues: [{{name: default, quotas: [{{pool: first, nominal: 8}}]}}]
"""


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture
def job(tmp_path: Path):
    def write(**values) -> str:
        usual = {"min": 100, "max": 200, "layers": 12, "d_model": 768, "stage": 2, "more": ""}
        path = tmp_path / "job.yaml"
        path.write_text(JOB.format(**(usual | {"task": "jobs.models.gpt:task"} | values)))
        return str(path)

    return write


@pytest.fixture
def cluster(tmp_path: Path):
    def write(device: str) -> str:
        path = tmp_path / "cluster.yaml"
        path.write_text(CLUSTER.format(device=device))
        return str(path)

    return write


def _estimate(capsys, *arguments):
    code, out, err = _run(capsys, "plan", *arguments, "-o", "json")
    assert code == 0, err
    return json.loads(out)["estimate"]


def test_without_a_device_the_plan_is_the_staircase_alone(capsys, job) -> None:
    _, out, _ = _run(capsys, "plan", job(), "-o", "json")
    assert "estimate" not in json.loads(out)


def test_every_size_has_time_money_energy_and_memory_with_its_assumptions(capsys, job) -> None:
    found = _estimate(capsys, job(), "--device", "h100", "--usd-per-device-hour", "2.5", "--mfu", "0.4")
    assert (found["device"]["name"], found["model"]["params"]) == ("H100-80GB", 85_169_664)
    assert found["assumptions"]["mfu"] == {"low": 0.4, "typical": 0.4, "high": 0.4}
    assert found["assumptions"]["usd_per_device_hour"]["typical"] == 2.5
    assert len(found["sizes"]) == 101
    for size in (found["sizes"][0], found["sizes"][-1]):
        hours = size["device_hours"]["typical"]
        assert size["usd"]["typical"] == pytest.approx(2.5 * hours)
        assert hours == pytest.approx(size["workers"] * size["run_s"]["typical"] / 3600)
        assert size["kwh"]["low"] < size["kwh"]["typical"] < size["kwh"]["high"]
        assert size["memory_bytes"]["total"] > 85_169_664 * 4
        assert size["fits"] == "yes"


def test_people_get_a_second_table_in_100_columns_with_one_line_of_assumptions(capsys, job) -> None:
    code, out, err = _run(capsys, "plan", job(), "--device", "h100")
    assert (code, err) == (0, "")
    assert max(map(len, out.partition("\n\n")[2].splitlines())) <= 100
    assert sum(line.startswith("Assumes MFU 0.3-0.57") for line in out.splitlines()) == 1
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:3].isdigit()].count("128") == 2


def test_a_cluster_names_device_price_and_power(capsys, job, cluster) -> None:
    found = _estimate(capsys, job(), "--cluster", cluster("H100"))
    assert found["device"]["name"] == "H100-80GB"
    assert found["assumptions"]["usd_per_device_hour"]["high"] == 2.0
    assert found["assumptions"]["watts_per_device"]["low"] == 700.0


@pytest.mark.parametrize(("topology", "gb_per_s"), [("a/b", 0.7), ("a", 0.7), (None, 8.75)])
def test_a_pool_s_place_says_how_fast_its_link_is(capsys, job, cluster, topology, gb_per_s: float) -> None:
    path = Path(cluster("H100"))
    levels = "levels: [{name: cloud, bandwidth_per_s: 10MB}, {name: rack, bandwidth_per_s: 1GB, latency: 1ms}]"
    place = "" if topology is None else f"topology: {topology}, "
    path.write_text(path.read_text().replace("power_w: 700,", f"power_w: 700, {place}") + f"  {levels}\n")
    found = _estimate(capsys, job(), "--cluster", str(path))
    assert found["assumptions"]["link_bytes_per_s"] == pytest.approx(gb_per_s * 1e9)


def test_a_measured_step_needs_neither_a_peak_nor_a_known_model(capsys, job, cluster) -> None:
    arguments = (job(task="my.code:task"), "--step-seconds", "102.4", "--cluster", cluster("home-made"))
    found = _estimate(capsys, *arguments, "--goodput", "1")
    assert (found["device"], found["model"]) == (None, None)
    at_128 = found["sizes"][28]
    assert at_128["step_s"] == {"low": 0.8, "typical": 0.8, "high": 0.8}
    assert at_128["usd"]["typical"] == pytest.approx(2000 * 102.4 / 3600 * 2.0)
    assert (at_128["memory_bytes"], at_128["fits"]) == (None, None)


def test_parameters_can_be_given_for_any_task(capsys, job) -> None:
    arguments = (job(task="my.code:task"), "--device", "h100", "--params", "1.3B", "--tokens-per-sample", "2k")
    found = _estimate(capsys, *arguments)
    assert found["model"] == {"params": 1_300_000_000, "flops_per_token": 7.8e9}
    assert found["largest_micro_batch"] is None


def test_slow_links_make_the_smallest_size_cheapest(capsys, job) -> None:
    path = job(stage=1)
    fast = _estimate(capsys, path, "--device", "h100", "--link-gbps", "3200")
    slow = _estimate(capsys, path, "--device", "h100", "--link-gbps", "1")
    assert slow["cheapest"]["workers"] < fast["cheapest"]["workers"] == 128


def test_the_deadline_of_the_file_and_of_the_line_choose_the_size(capsys, job) -> None:
    path = job(more="  deadline: 10m")
    arguments = ("--device", "h100", "--mfu", "0.4", "--goodput", "1", "--link-gbps", "3200")
    assert _estimate(capsys, path, *arguments)["deadline_s"] == 600
    quick = _estimate(capsys, path, *arguments, "--deadline", "4m")
    assert quick["deadline_s"] == 240
    chosen = next(size for size in quick["sizes"] if size["workers"] == quick["cheapest"]["workers"])
    assert chosen["run_s"]["typical"] <= 240


def test_a_budget_says_how_many_steps_it_holds(capsys, job) -> None:
    path = job(more='  budget: {usd: "10"}')
    arguments = ("--device", "h100", "--usd-per-device-hour", "2.5")
    found = _estimate(capsys, path, *arguments)
    chosen = next(size for size in found["sizes"] if size["workers"] == found["cheapest"]["workers"])
    assert found["steps_within_budget"] == int(10 / chosen["usd"]["typical"] * 2000)
    _, out, _ = _run(capsys, "plan", path, *arguments)
    assert "The job's budget holds about" in out


@pytest.mark.parametrize(
    ("values", "arguments", "words"),
    [
        ({"layers": 96, "d_model": 12288}, [], "of memory a device even at 200 workers"),
        ({}, ["--memory-gib", "1"], "Set batch.micro_batch_size to 5 or less"),
        ({}, ["--deadline", "10s"], "at the quickest, and its deadline is 10.0 s"),
        ({"more": '  budget: {usd: "0.0001"}'}, [], "one step costs $"),
    ],
)
def test_what_can_never_be_is_exit_8_with_a_way_out(capsys, job, values, arguments, words: str) -> None:
    code, out, err = _run(capsys, "plan", job(**values), "--device", "h100", *arguments)
    assert (code, out) == (8, "")
    assert err.startswith("error: big: ")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "h1000"], "--device: device is 'h1000'; it must be one of the table, such as H100-80GB"),
        (["--device", "h100", "--mfu", "nan"], "--mfu is nan"),
        (["--device", "h100", "--mfu", "40"], "--mfu is 40.0; it must be above 0 and at most 1"),
        (["--device", "h100", "--goodput", "0"], "--goodput is 0.0"),
        (["--device", "h100", "--overlap", "-1"], "--overlap is -1.0; it must be 0..1"),
        (["--device", "h100", "--pue", "0.9"], "--pue is 0.9; it must be at least 1"),
        (["--device", "h100", "--link-gbps", "inf"], "--link-gbps is inf"),
        (["--device", "h100", "--kg-co2e-per-kwh", "-2"], "--kg-co2e-per-kwh is -2.0"),
        (["--device", "h100", "--usd-per-device-hour", "nan"], "--usd-per-device-hour is nan"),
        (["--device", "h100", "--watts-per-device", "-1"], "--watts-per-device is -1.0"),
        (["--step-seconds", "inf"], "--step-seconds is inf"),
        (["--device", "h100", "--params", "many"], "--params: 'many' is not a count"),
        (["--device", "h100", "--params", "7B"], "--tokens-per-sample: is missing"),
        (["--device", "h100", "--deadline", "8"], "--deadline: "),
        (["--mfu", "0.4"], "there is nothing to estimate with"),
    ],
)
def test_bad_values_are_exit_3_and_say_what_would_be_right(capsys, job, arguments, words: str) -> None:
    code, out, err = _run(capsys, "plan", job(), *arguments)
    assert (code, out) == (3, "")
    assert words in err
    assert "Traceback" not in err


def test_a_task_of_unknown_size_says_what_to_give(capsys, job) -> None:
    code, _, err = _run(capsys, "plan", job(task="my.code:task"), "--device", "h100")
    assert code == 3
    assert "--params and --tokens-per-sample, or --step-seconds" in err


@pytest.mark.parametrize("arguments", [["--budget-usd", "5"], ["--usd-per-device-hour", "3"], ["--max-devices", "4"]])
def test_options_without_an_effect_are_refused(capsys, job, arguments) -> None:
    code, _, err = _run(capsys, "plan", job(), *arguments)
    assert code == 2
    assert "no effect" in err


def test_defaults_of_the_task_are_those_of_the_planner() -> None:
    import inspect

    from jobs.models.gpt import task
    from orchestrator.cli.plan_job import _GPT_DEFAULTS, GPT_TASK

    given = inspect.signature(task).parameters
    assert {name: given[name].default for name in _GPT_DEFAULTS} == _GPT_DEFAULTS
    assert f"{task.__module__}:{task.__name__}" == GPT_TASK


def test_the_planner_counts_what_the_task_builds() -> None:
    from jobs.models.gpt import task
    from jobs.models.task import num_parameters

    built = task(layers=3, d_model=128, seq_len=32, mlp_ratio=3)
    planned = gpt(3, 128, 32, mlp_ratio=3)
    assert planned.num_params == num_parameters(built)
    assert planned.flops_per_token * 32 == built.flops_per_sample()
