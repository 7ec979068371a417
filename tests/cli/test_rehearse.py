"""`tide window rehearse`: recorded demand against the lending policy, and mistakes that are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {name: c}
spec:
  pools:
    - {name: pool, device: cpu, resource: CPU, count: 20, market: on_demand, price: "1", capacity: {source: ray}}
    - {name: other, device: cpu, resource: CPU, count: 20, market: on_demand, price: "1", capacity: {source: ray}}
  lending: {pools: [pool], min_slice: 10m, recall_lead: 4m}
"""
ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: talk}
spec:
  model: m@1
  engine: {name: echo}
  replicas: {min: 1, max: 20, rps: 10, resources: {CPU: 1}}
  tiers: {interactive: {slo: {latency: 2s}}}
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Nights of 40 requests/s, days of 120, for two days and a third."""
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "endpoint.yaml").write_text(ENDPOINT)
    rows = [f"{hour * 3600},{120 if 8 <= hour % 24 < 20 else 40},1" for hour in range(57)]
    (tmp_path / "week.csv").write_text("\n".join(["t_seconds,talk_rps,other_rps", *rows]) + "\n")
    return [str(tmp_path / "cluster.yaml"), str(tmp_path / "endpoint.yaml"), "--demand", str(tmp_path / "week.csv")]


def rehearse(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["window", "rehearse", *words])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_nights_are_lent_and_nobody_waits(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    code, out, _ = rehearse(capsys, *files, "-o", "json")
    told = json.loads(out)
    assert (code, told["kind"], told["replicas"], told["recall_lead_s"]) == (0, "LendingRehearsal", 20, 240.0)
    assert [day["date"] for day in told["days"]] == ["2026-01-05", "2026-01-06", "2026-01-07"]
    assert [day["peak_rps"] for day in told["days"][:2]] == [pytest.approx(120.0)] * 2
    assert told["days"][1]["lent_replica_hours"] > 8 * 12  # from the second day on, most of what the night leaves
    assert told["short_s"] == 0.0
    assert told["days"][1]["fewest_answering"] >= 4
    assert told["lent_share"] == pytest.approx(told["lent_replica_hours"] / (20 * 56))


def test_people_see_a_line_a_day_and_a_sentence(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    code, out, _ = rehearse(capsys, *files, "--begins", "2026-03-02T00:00:00+01:00", "--column", "other")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].startswith("Sun 2026-03-01")  # the pool's customers keep UTC: no window names another zone
    assert "of the time of 20 replicas would be lent, called back 240 s ahead" in lines[-1]


@pytest.mark.parametrize(
    ("more", "replaced", "exit_code", "said"),
    [
        (["--column", "tolk"], ("", ""), 4, "there is no column 'tolk_rps'. Did you mean talk?"),
        (["--pool", "other"], ("", ""), 4, "--pool: the Cluster lends nothing of 'other'"),
        (["--begins", "noon"], ("", ""), 3, "--begins: "),
        ([], ("rps: 10, ", ""), 3, "spec.replicas.rps is missing"),
        ([], ("lending: {pools: [pool], min_slice: 10m, recall_lead: 4m}", ""), 3, "the Cluster lends nothing"),
        ([], ("pools: [pool]", "pools: [pool, other]"), 3, "the Cluster lends of pool, other; one pool is played"),
    ],
)
def test_what_is_wrong_is_named(
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    more: list[str],
    replaced: tuple[str, str],
    exit_code: int,
    said: str,
) -> None:
    for name in files[:2]:
        Path(name).write_text(Path(name).read_text().replace(*replaced) if replaced[0] else Path(name).read_text())
    code, out, err = rehearse(capsys, *files, *more)
    assert (code, out) == (exit_code, "")
    assert said in err
