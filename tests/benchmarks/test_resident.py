"""What the benchmarks of many ranks stand on: a cost per copied page that was measured, and memory that is in use."""

from __future__ import annotations

from tests.benchmarks.resident import page_cost_us


def test_a_copied_page_costs_something_and_no_process_is_left() -> None:
    assert 0 < page_cost_us(processes=3, pages=200) < 1e6
