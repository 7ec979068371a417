"""State of real DeepSpeed groups, saved by N ranks and loaded by M, is what DeepSpeed's own conversion makes of it.

Every comparison is bit for bit: master weights, moments, the model's weights and buffers right after the load, against
what was gathered before the save and against `ds_to_universal` + load. Two further steps then check what cannot be
gathered (step counters). The same runs hold the export to the universal format (loaded by DeepSpeed) and the reading of
DeepSpeed's own files (loaded by us).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
        assert not any(report.get(key) for key in ("now", "later", "oracle", "exported", "native")), report


@pytest.mark.cluster
def test_every_stage_loads_at_another_size_bit_for_bit(tmp_path):
    reports = _reports(tmp_path, FEW)
    _expect_equal(reports, len(FEW))
    assert sum("oracle" in report for report in reports) == 3


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
