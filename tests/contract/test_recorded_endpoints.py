"""Recorded endpoints behind the port: what the cycle keeps free follows the demand, and bad files are told exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.adapters.endpoints.demand import DemandSeries, load_demand
from orchestrator.adapters.endpoints.recorded import RecordedEndpoints, Recording
from orchestrator.policy.lending.values import Lend
from orchestrator.ports import Endpoints, UnreachableError
from orchestrator.spec.errors import ExitCode, UserError
from tests.policy.lending.worlds import MONDAY_S, terms


@dataclass
class Hand:
    """A clock that is set by hand."""

    at_s: float = MONDAY_S

    def now_s(self) -> float:
        return self.at_s


def night_and_day() -> DemandSeries:
    hours = [40.0] * 8 + [120.0] * 12 + [40.0] * 4
    return DemandSeries(name="m", tick_s=3600.0, rps=tuple(hours * 3))


def test_headroom_follows_night_and_day() -> None:
    clock = Hand()
    port: Endpoints = RecordedEndpoints(
        (Recording(name="m", terms=terms(), demand=night_and_day(), begins_s=MONDAY_S),), clock
    )
    kept: dict[float, int] = {}
    while clock.at_s < MONDAY_S + 60 * 3600:
        kept[(clock.at_s - MONDAY_S) / 3600] = port.headroom()["gpu"]
        clock.at_s += 30.0
    assert kept[0.0] < 20  # less than all devices from the first look on
    assert kept[51.0] < kept[58.0] <= 20
    assert kept[58.0] >= 12


def test_asked_twice_at_one_time_it_answers_the_same() -> None:
    clock = Hand()
    port = RecordedEndpoints((Recording(name="m", terms=terms(), demand=night_and_day(), begins_s=MONDAY_S),), clock)
    first = port.headroom()
    assert isinstance(port.decision("m"), Lend)
    assert port.headroom() == first
    assert port.standing("m").lent == 20 - first["gpu"]


@pytest.mark.parametrize("at_s", [MONDAY_S - 1, MONDAY_S + 80 * 3600])
def test_outside_the_series_nothing_is_guessed(at_s: float) -> None:
    port = RecordedEndpoints(
        (Recording(name="m", terms=terms(), demand=night_and_day(), begins_s=MONDAY_S),), Hand(at_s)
    )
    with pytest.raises(UnreachableError, match="outside the series"):
        port.headroom()


def test_two_endpoints_of_one_name_are_refused() -> None:
    one = Recording(name="m", terms=terms(), demand=night_and_day(), begins_s=MONDAY_S)
    with pytest.raises(ValueError, match="stands for one endpoint"):
        RecordedEndpoints((one, one), Hand())


def _write(folder: Path, *rows: str) -> Path:
    path = folder / "rate.csv"
    path.write_text("\n".join(["t_seconds,a_rps,b_rps", *rows]) + "\n")
    return path


def test_a_series_is_read_with_lines_between_and_holes_counted(tmp_path: Path) -> None:
    series = load_demand(_write(tmp_path, "0,10,1", "600,20,0", "1800,40,3"), "a")
    assert (series.tick_s, series.rps, series.holes) == (900.0, (10.0, 20.0, 40.0), 0)
    series = load_demand(_write(tmp_path, "0,10,1", "600,20,0", "1200,30,2", "2400,40,3"), "b")
    assert (series.tick_s, series.rps, series.holes) == (600.0, (1.0, 1.0, 2.0, 2.0, 3.0), 2)
    assert series.at(900.0) == 1.5
    assert series.at(series.length_s) == 3.0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("0,1,1", "0,2,2"), ":3: column 't_seconds': 0 is the same time as the row before"),
        (("600,1,1", "0,2,2"), ":3: column 't_seconds': 0 is earlier than the row before"),
        (("0,1,1", "600,-2,2"), ":3: column 'a_rps': '-2' is not a demand"),
        (("0,1,1", "600,nan,2"), ":3: column 'a_rps': 'nan' is not a demand"),
        (("0,1,1", "600"), ":3: 1 cells; the header has more"),
        (("0,1,1",), "1 rows, 1 of them with a demand"),
        (("0,0,1", "600,0,1"), "2 rows, 0 of them with a demand"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_demand(_write(tmp_path, *rows), "a")
    assert said in str(refused.value)
    assert refused.value.code is ExitCode.INVALID


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no column 'c_rps'") as refused:
        load_demand(_write(tmp_path, "0,1,1", "600,1,1"), "c")
    assert refused.value.code is ExitCode.UNKNOWN


def test_the_recorded_week_is_read(recorded_data: Path) -> None:
    series = load_demand(recorded_data / "serving-load" / "rate_600s.csv", "m-large")
    assert (len(series.rps), series.tick_s, series.holes) == (1008, 600.0, 0)
    assert max(series.rps) == pytest.approx(582.99, abs=0.01)
