"""What the planner promises of published runs holds on the reference table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.planner import TARGETS, compare


@pytest.fixture(scope="module")
def result(recorded_data: Path) -> dict[str, Any]:
    return compare(recorded_data / "planner-reference")


def test_every_kind_with_a_target_reaches_it(result) -> None:
    assert set(TARGETS) <= set(result["kinds"])
    assert result["misses"] == {}


def test_every_row_of_the_mfu_table_is_compared_and_most_of_the_reference(result) -> None:
    assert result["kinds"]["mfu"]["rows"] == 108
    assert result["kinds"]["iteration_time"]["rows"] == 6
    assert result["kinds"]["energy"]["rows"] == 6
    assert result["kinds"]["co2e"]["rows"] == 9


def test_our_table_of_devices_agrees_with_the_reference(result) -> None:
    assert result["kinds"]["hardware"]["max"] < 0.001


def test_iteration_times_are_nearer_than_one_utilisation_for_all(result) -> None:
    ours, bare = result["kinds"]["iteration_time"], result["baselines"]["iteration_time"]
    assert ours["mean"] < bare["mean"] / 2
    assert ours["max"] < bare["max"] / 2


def test_no_run_that_fitted_its_devices_is_said_not_to(result) -> None:
    assert sum(result["memory"]["said"].values()) == result["memory"]["runs"] == 108
    assert "no" not in result["memory"]["said"]
    assert result["memory"]["share"]["max"] < 1.2
    assert result["memory"]["state_alone_max"] < 1
