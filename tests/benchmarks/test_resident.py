"""What the benchmarks of many ranks stand on: a cost per copied page that was measured."""

from __future__ import annotations

from tests.benchmarks.resident import page_cost_us


def test_a_copied_page_costs_kernel_time() -> None:
    # Enough pages for several ticks of the kernel's clock, by which it tells its own time from a process's.
    assert 0.1 < page_cost_us(processes=3, pages=8000) < 1000
