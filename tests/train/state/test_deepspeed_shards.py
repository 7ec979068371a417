"""State of real DeepSpeed groups, saved by N ranks and loaded by M, is what DeepSpeed's own conversion makes of it.

Every comparison is bit for bit: master weights, moments, the model's weights and buffers right after the load, against
what was gathered before the save and against `ds_to_universal` + load. Two further steps then check what cannot be
gathered (step counters). The same runs hold the export to the universal format (loaded by DeepSpeed) and the reading of
DeepSpeed's own files (loaded by us, directly and once they were taken over).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.data import pack

FEW = ["1:fp32:2:3", "2:bf16:3:2", "3:fp32:2:3", "0>3:fp32:1:2:small"]
MORE = [
    *("0:fp32:2:3", "0:bf16:3:2", "1:bf16:3:1", "2:fp32:3:2", "2:bf16:2:4", "3:bf16:1:2"),
    *("1>3:fp32:2:3", "2>1:fp32:3:2", "3>2:bf16:3:4"),
    *("1:fp32:5:2:small", "2:fp32:4:3:small", "3:fp32:2:6:small"),
]
ALL = [f"{stage}:fp32:{n}:1,2,3,4,5,6" for stage in (1, 2, 3) for n in range(1, 7)]


def _reports(folder, cases):
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.state.deepspeed_ranks", str(folder), *cases]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _expect_equal(reports, num_cases):
    assert len(reports) == num_cases
    for report in reports:
        assert report["compared"] >= 9
        compared = ("now", "later", "oracle", "exported", "native", "adopted", "adopted later")
        assert not any(report.get(key) for key in compared), report


@pytest.mark.cluster
def test_every_stage_loads_at_another_size_bit_for_bit(tmp_path):
    reports = _reports(tmp_path, FEW)
    _expect_equal(reports, len(FEW))
    assert sum("oracle" in report for report in reports) == 3
    _taken_over_by_its_verb(tmp_path, next(tmp_path.rglob("latest")).parent)


JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {name: moved-in}
spec:
  workers: {min: 1, max: 4}
  task: jobs.models.gpt:task
  data: {dataset: corpus@latest}
  batch: {global_batch_size: 8, micro_batch_size: 1}
  steps: 2
"""


def _taken_over_by_its_verb(tmp_path, native):
    home, file = tmp_path / "home", tmp_path / "job.yaml"
    pack(Path(__file__).parent, name="corpus", home=home)
    file.write_text(JOB)

    def tide(*arguments):
        program = "from orchestrator.cli.main import main; main()"
        command = [sys.executable, "-c", program, "checkpoint", *map(str, arguments)]
        return subprocess.run(command, env=os.environ | {"TIDE_HOME": str(home)}, capture_output=True, text=True)

    moved = tide("import", file, native)
    assert moved.returncode == 0, moved.stderr
    assert "moved-in goes on after step 3" in moved.stdout
    assert "it has 2 steps, so raise them" in moved.stdout
    (listed,) = json.loads(tide("ls", "moved-in", "-o", "json").stdout)["items"]
    assert (listed["step"], listed["task"]) == (3, "jobs.models.gpt:task")
    assert tide("verify", "moved-in").returncode == 0
    again = tide("import", file, native)
    assert again.returncode == 7
    assert "has a checkpoint of step 3 already" in again.stderr
    missing = tide("import", file, tmp_path / "nowhere")
    assert (missing.returncode, "nowhere" in missing.stderr) == (7, False), "first things first: the run has begun"


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_further_precisions_and_changes_of_stage_and_ranks_that_own_nothing(tmp_path):
    _expect_equal(_reports(tmp_path, MORE), len(MORE))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_all_sizes_from_one_to_six_at_every_stage(tmp_path):
    reports = _reports(tmp_path, ALL)
    _expect_equal(reports, 3 * 36)
    assert all("oracle" in report for report in reports)
