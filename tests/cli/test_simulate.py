"""`tide simulate`: its keys, exit codes and pictures are a contract with programs that call it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.cli import main as cli

T0 = datetime(2025, 10, 3, 17, 0, tzinfo=UTC)
KEYS = [
    "scenario",
    "policy",
    "cost_usd",
    "on_demand_cost_usd",
    "savings",
    "deadline_met",
    "finished_at_s",
    "spot_device_hours",
    "on_demand_device_hours",
    "useful_worker_hours",
    "stall_worker_hours",
    "lost_worker_hours",
    "idle_device_hours",
    "training_goodput",
    "resizes",
    "preempted_devices",
]
SCENARIO = """\
apiVersion: tideline/v1
kind: Scenario
metadata: {{name: small}}
spec:
  capacity: {{trace: capacity.csv, prices: prices.csv{capacity}}}
  on_demand: {{max_devices: 4}}
  job: {{work: {work}, workers: {{min: 2, max: 4}}, deadline: {deadline}, stall: 60s}}
  policy: greedy
"""


def hours(*cells: tuple[float, str]) -> str:
    return "".join(f"{(T0 + timedelta(hours=h)).isoformat()},{cell}\n" for h, cell in cells)


def make(folder: Path, *, work: str = "8h", deadline: str = "6h", capacity: str = "", missing: int = -1) -> Path:
    """Six hours of ten-minute ticks with four devices in each of two pools."""
    rows = [(i / 6, "4,4") for i in range(36) if i != missing]
    (folder / "capacity.csv").write_text("time,a,b\n" + hours(*rows))
    (folder / "prices.csv").write_text("pool,kind,usd_per_device_hour\na,spot,2\nb,spot,3\n,on_demand,10\n")
    path = folder / "small.yaml"
    path.write_text(SCENARIO.format(work=work, deadline=deadline, capacity=capacity))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["simulate", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, out, err


def test_the_object_has_exactly_the_keys_of_the_contract_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, make(tmp_path), "-o", "json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert list(result) == KEYS
    assert (result["scenario"], result["policy"], result["deadline_met"]) == ("small", "greedy", True)
    assert result["cost_usd"] == pytest.approx(2 * 4 * (2 + 60 / 3600))
    assert result["on_demand_cost_usd"] == pytest.approx(10 * 2 * (4 + 60 / 3600))


def test_a_missed_deadline_is_a_result_and_the_policy_can_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path, work="11h", deadline="3h")
    (tmp_path / "capacity.csv").write_text("time,a,b\n" + hours(*((i / 6, "1,0") for i in range(36))))
    code, out, _ = run(capsys, path, "-o", "json", "--policy", "gang-4")
    assert (code, json.loads(out)["deadline_met"]) == (0, True)  # its safety net buys on-demand in time
    code, out, _ = run(capsys, path, "-o", "json", "--policy", "bound")
    assert (code, json.loads(out)["policy"]) == (0, "bound")


def test_a_deadline_that_on_demand_cannot_keep_exits_8_with_the_earliest_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, make(tmp_path, work="8h", deadline="2h"), "-o", "json")
    assert (code, out) == (8, "")
    assert "deadline 2.0000h cannot be kept" in err
    assert "7260s" in err
    code, out, _ = run(capsys, make(tmp_path, work="8h", deadline="7260s"), "-o", "json")
    assert code == 0


def test_a_hole_is_carried_forward_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, make(tmp_path, missing=3), "-o", "json")
    assert code == 0
    assert "1 ticks of the series have no row" in err
    whole = run(capsys, make(tmp_path), "-o", "json")[1]
    assert json.loads(out) == json.loads(whole)


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_a_plot_is_written_beside_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    picture = tmp_path / f"run.{suffix}"
    code, out, err = run(capsys, make(tmp_path), "-o", "json", "--plot", picture)
    assert (code, list(json.loads(out))) == (0, KEYS)
    assert f"wrote {picture}" in err
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") if suffix == "png" else (b"<svg" in data and b"on_demand_cost_usd" in data)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(("name", "words"), [("run.gif", ".png or .html"), ("gone/run.png", "there is no folder")])
def test_a_picture_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    code, out, err = run(capsys, tmp_path / "no-such-scenario.yaml", "--plot", tmp_path / name)
    assert (code, out) == (2, "")
    assert words in err


def test_prices_and_carbon_by_the_hour_only_add_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = ", price_series: spot.csv, carbon_series: carbon.csv, power_w: 500"
    (tmp_path / "spot.csv").write_text("time,a\n" + hours((0, "2"), (1, "1"), (2, "4")))
    (tmp_path / "carbon.csv").write_text("time,a,b,on_demand\n" + hours((-5, "400,300,200")))
    picture = tmp_path / "run.png"
    code, out, err = run(capsys, make(tmp_path, capacity=extra), "-o", "json", "--plot", picture)
    result = json.loads(out)
    assert code == 0
    assert list(result) == [*KEYS, "mean_usd_per_device_hour", "carbon_kg", "on_demand_carbon_kg"]
    assert result["cost_usd"] == pytest.approx(4 * (2 + 1 + 4 * 60 / 3600))
    assert result["carbon_kg"] == pytest.approx(4 * (2 + 60 / 3600) * 0.5 * 0.4)
    assert result["on_demand_carbon_kg"] == pytest.approx(2 * (4 + 60 / 3600) * 0.5 * 0.2)
    assert "3 rows of the price or carbon series seem to be missing" in err
    assert picture.exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (", carbon_series: carbon.csv", "power_w"),
        (", power_w: 500", "has no effect"),
        (', carbon_price: "80"', "has no effect"),
        (", price_series: nowhere.csv", "no such file"),
    ],
)
def test_half_a_set_of_keys_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: str, words: str
) -> None:
    code, out, err = run(capsys, make(tmp_path, capacity=keys), "-o", "json")
    assert (code, out) == (3, "")
    assert words in err


def test_a_bad_price_is_named_by_file_line_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spot.csv").write_text("time,a\n" + hours((0, "2"), (1, "free")))
    code, _, err = run(capsys, make(tmp_path, capacity=", price_series: spot.csv"), "-o", "json")
    assert code == 3
    assert f"{tmp_path / 'spot.csv'}:3: column 'a': 'free' is no price in dollars per device-hour" in err
