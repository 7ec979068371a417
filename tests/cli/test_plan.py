"""`tide plan`: the staircase of a job, for people and for programs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli import plan as plan_module
from orchestrator.cli.main import main
from orchestrator.cli.plan import describe
from orchestrator.policy.batch_plan import BatchPlan

JOB = """
apiVersion: tideline/v1
kind: TrainJob
metadata: {{name: big}}
spec:
  workers: {{min: {min}, max: 200}}
  task: jobs.models.gpt:task
  data: {{dataset: python-stdlib@latest}}
  batch: {{global_batch_size: 9600, micro_batch_size: 8}}
  steps: 400
"""


def _run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture
def job(tmp_path):
    def write(**values):
        path = tmp_path / "job.yaml"
        path.write_text(JOB.format(**({"min": 100} | values)))
        return str(path)

    return write


def test_programs_get_every_size(capsys, job):
    code, out, _ = _run(capsys, "plan", job(), "-o", "json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["apiVersion"], plan["kind"], plan["name"]) == ("tideline/v1", "TrainPlan", "big")
    assert plan["useful_sizes"] == [100, 110, 120, 134, 150, 172, 200]
    assert len(plan["sizes"]) == 101
    assert plan["sizes"][-1] == {
        "workers": 200,
        "useful": True,
        "passes": 6,
        "speed": 2.0,
        "balance": 1.0,
        "samples_per_worker": {"min": 48, "max": 48},
    }
    assert round(plan["mean_balance"], 3) == 0.941


def test_people_get_the_useful_sizes_and_what_is_as_fast(capsys, job):
    code, out, err = _run(capsys, "plan", job())
    rows = [line.split() for line in out.splitlines() if line.strip()[:3].isdigit()]
    assert (code, err) == (0, "")
    assert [row[0] for row in rows] == ["100", "110", "120", "134", "150", "172", "200"]
    assert rows[4] == ["150", "8", "1.50x", "100.0%", "64", "151-171"]


def test_a_wrong_file_is_reported_with_its_place(capsys, job):
    code, out, err = _run(capsys, "plan", job(min=300))
    assert (code, out) == (3, "")
    assert "job.yaml:6" in err
    assert "300" in err


def test_a_missing_file_is_no_traceback(capsys, tmp_path):
    code, _, err = _run(capsys, "plan", str(tmp_path / "none.yaml"))
    assert code == 3
    assert "Traceback" not in err


def test_a_long_table_is_thinned_to_the_terminal(monkeypatch):
    sizes = [{"workers": w} for w in range(50)]
    assert plan_module._thin(sizes, None) == sizes
    shown = plan_module._thin(sizes, 10)
    assert len(shown) == 10
    assert (shown[0]["workers"], shown[-1]["workers"]) == (0, 49)


@settings(deadline=None, max_examples=50)
@given(
    batch=st.builds(BatchPlan, st.integers(1, 3000), st.integers(1, 16)),
    low=st.integers(1, 50),
    more=st.integers(0, 30),
)
def test_least_and_most_samples_are_those_of_all_ranks(batch, low, more):
    for size in describe("job", batch, low, low + more)["sizes"]:
        every = [batch.rank_samples(size["workers"], rank) for rank in range(size["workers"])]
        assert size["samples_per_worker"] == {"min": min(every), "max": max(every)}
