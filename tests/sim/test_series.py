"""Reading recorded series and price lists: the grid, the holes, and one clear error for everything wrong in a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.sim.prices import NANO, load_prices
from orchestrator.sim.series import load_series
from orchestrator.spec.errors import ExitCode, UserError

T0 = datetime(2025, 10, 3, 17, 10, tzinfo=UTC)


def row(minutes: float, *counts: object) -> str:
    return ",".join([(T0 + timedelta(minutes=minutes)).isoformat(), *map(str, counts)])


def write(folder: Path, *lines: str, name: str = "capacity.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_snap_to_the_grid_of_the_median_gap(tmp_path: Path) -> None:
    lines = [row(0, 1, 2), row(10.001, 3, 4), row(19.999, 5, 6), row(30, 7, 8)]
    series = load_series(write(tmp_path, "time,a,b", *lines))
    assert series.tick_s == 600
    assert series.pools == ("a", "b")
    assert series.counts.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert series.holes == ()


def test_a_grid_point_without_a_row_repeats_the_one_before(tmp_path: Path) -> None:
    lines = [row(0, 1), row(10, 2), row(20, 3), row(50, 9), row(60, 8)]
    series = load_series(write(tmp_path, "time,a", *lines))
    assert series.counts[:, 0].tolist() == [1, 2, 3, 3, 3, 9, 8]
    assert series.holes == (3, 4)


def test_a_moment_finds_its_nearest_tick_and_one_outside_is_refused(tmp_path: Path) -> None:
    series = load_series(write(tmp_path, "time,a", row(0, 1), row(10, 2), row(20, 3)))
    assert series.index_of(T0 + timedelta(minutes=14)) == 1
    assert series.index_of(T0 - timedelta(minutes=4)) == 0
    for minutes in (-6, 26):
        with pytest.raises(UserError, match="outside the series"):
            series.index_of(T0 + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ([row(0, 1), row(10, 2), row(5, 3)], 4, ("time", "earlier than")),
        ([row(0, 1), row(10, 2), row(10, 3)], 4, ("time", "the same time as")),
        ([row(0, 1), row(10, -2)], 3, ("column 'a'", "'-2'")),
        ([row(0, 1), row(10, 2.5)], 3, ("column 'a'", "'2.5'")),
        ([row(0, 1), row(10, "")], 3, ("column 'a'",)),
        ([row(0, 1), row(10, "nan")], 3, ("column 'a'",)),
        ([row(0, 1), row(10, 2, 3)], 3, ("3 cells",)),
        ([row(0, 1), "2025-10-03T17:20:00,2"], 3, ("time", "no offset")),
        ([row(0, 1), "2025-10-03T17:20:00 Mars/Base,2"], 3, ("time", "not an ISO 8601 time")),
        ([], None, ("0 rows",)),
        ([row(0, 1)], None, ("1 rows",)),
    ],
)
def test_bad_rows_are_named_by_file_line_and_column(
    tmp_path: Path, lines: list[str], line: int | None, words: tuple[str, ...]
) -> None:
    path = write(tmp_path, "time,a", *lines)
    with pytest.raises(UserError) as caught:
        load_series(path)
    assert caught.value.code is ExitCode.INVALID
    assert caught.value.problem.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert all(word in caught.value.problem for word in words)


def test_every_bad_row_is_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "time,a,b", row(0, 1, -1), row(10, "x", 1), row(20, 1, 1))
    with pytest.raises(UserError) as caught:
        load_series(path)
    assert [line.split(": ")[0] for line in caught.value.problem.splitlines()] == [f"{path}:2", f"{path}:3"]


def test_two_rows_on_one_tick_are_refused(tmp_path: Path) -> None:
    lines = [row(0, 1), row(10, 1), row(20, 1), row(22, 1), row(30, 1), row(40, 1)]
    with pytest.raises(UserError, match="same 600 s tick"):
        load_series(write(tmp_path, "time,a", *lines))


@pytest.mark.parametrize("header", ["", "when,a", "time", "time,a,a", "time,a,"])
def test_a_header_that_names_no_pools_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(UserError):
        load_series(write(tmp_path, header, row(0, 1, 2), row(10, 1, 2)))


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_series(tmp_path / "nowhere.csv")


def test_the_single_instance_form_becomes_one_pool_named_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "west.json"
    path.write_text(json.dumps({"metadata": {"gap_seconds": 195}, "data": [0, 1, 1]}))
    series = load_series(path)
    assert (series.pools, series.tick_s, series.counts.tolist()) == (("west",), 195, [[0], [1], [1]])


@pytest.mark.parametrize(
    "document",
    ["[]", "{", '{"metadata": {"gap_seconds": 0}, "data": [1]}', '{"metadata": {"gap_seconds": 9}, "data": [1.5]}'],
)
def test_a_damaged_single_instance_file_is_refused(tmp_path: Path, document: str) -> None:
    path = tmp_path / "west.json"
    path.write_text(document)
    with pytest.raises(UserError):
        load_series(path)


PRICES = ("pool,kind,usd_per_device_hour", "a,spot,2.407", "b,spot,1.8567", "on-demand,on_demand,10.316")


def test_prices_are_whole_nanodollars_in_the_order_of_the_pools(tmp_path: Path) -> None:
    prices = load_prices(write(tmp_path, *PRICES, name="prices.csv"), ["b", "a"], on_demand_needed=True)
    assert prices.spot_nano == (1_856_700_000, 2_407_000_000)
    assert prices.on_demand_nano == 10.316 * NANO


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (PRICES[:2] + PRICES[3:], "pool 'b' of the series has no spot price"),
        ((*PRICES, "c,spot,1"), "5: column 'pool': price for 'c'"),
        ((*PRICES, "a,spot,1"), "5: column 'pool': a second price"),
        ((*PRICES, "od,on_demand,1"), "5: column 'kind': a second on_demand row"),
        (PRICES[:3], "no on_demand row"),
        ((PRICES[0], "a,spot,-1", *PRICES[2:]), "2: column 'usd_per_device_hour': '-1' is no price"),
        ((PRICES[0], "a,lease,1", *PRICES[1:]), "2: column 'kind': 'lease'"),
        (("pool,price", "a,1"), "1: the header"),
    ],
)
def test_bad_prices_are_named_by_file_line_and_column(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_prices(write(tmp_path, *lines, name="prices.csv"), ["a", "b"], on_demand_needed=True)
    assert words in caught.value.problem
    assert caught.value.code is ExitCode.INVALID


def test_no_on_demand_row_is_needed_when_none_can_be_had(tmp_path: Path) -> None:
    path = write(tmp_path, *PRICES[:3], name="prices.csv")
    assert load_prices(path, ["a", "b"], on_demand_needed=False).on_demand_nano is None
