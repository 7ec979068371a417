"""Savings of the reference policies as published with their definitions, to check that ours reproduce them.

Percent, on the first 7.3 days of the 13-zone H100 series, 96 h, seven windows. `gaps` compares nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WINDOWS = 7
POLICIES = (
    "gang-100",
    "gang-128",
    "greedy",
    "uniform-progress",
    "trailing-min-1h",
    "trailing-min-2h",
    "foresight-bound",
    "bound",
)
SAVINGS = {  # work h, stall s, loss s, reading
    (8640, 30, 150, "drop"): (27.2, 9.5, 29.2, 44.5, 37.9, 31.3, 65.0, 77.0),
    (8640, 30, 150, "debounced"): (40.1, 15.4, 45.2, 58.0, 50.6, 43.4, 72.7, 77.0),
    (8640, 180, 150, "drop"): (16.8, 5.8, 11.7, 13.5, 23.4, 20.7, 56.7, 77.0),
    (8640, 180, 150, "debounced"): (32.1, 12.8, 23.3, 26.8, 42.7, 37.5, 67.1, 77.0),
    (8640, 10, 10, "drop"): (39.6, 13.8, 48.4, 64.9, 48.2, 39.2, 70.9, 77.0),
    (8640, 10, 10, "debounced"): (49.4, 18.2, 62.9, 68.3, 55.2, 49.3, 75.3, 77.0),
    (10560, 30, 150, "drop"): (19.2, 7.6, 20.9, 30.7, 30.7, 25.9, 55.8, 66.1),
    (10560, 30, 150, "debounced"): (27.9, 11.9, 32.1, 42.6, 43.2, 37.3, 65.0, 66.1),
    (10560, 180, 150, "drop"): (12.1, 4.4, 8.3, 8.3, 14.1, 16.3, 46.6, 66.1),
    (10560, 180, 150, "debounced"): (22.7, 9.9, 16.5, 17.6, 30.9, 28.6, 56.8, 66.1),
    (10560, 10, 10, "drop"): (27.9, 10.9, 35.1, 60.8, 42.8, 34.5, 63.0, 66.1),
    (10560, 10, 10, "debounced"): (34.4, 14.0, 46.4, 65.6, 50.7, 43.3, 69.4, 66.1),
}


def published_gaps(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Per policy the largest distance from its published savings, in points; only for rows over seven windows."""
    gaps: dict[str, float] = {}
    for row in rows:
        at = SAVINGS.get((row["work_h"], row["stall_s"], row["unannounced_loss_s"], row["loss"]))
        if at is None or row["policy"] not in POLICIES or row["windows"] != WINDOWS:
            continue
        gap = abs(100 * row["savings"] - at[POLICIES.index(row["policy"])])
        gaps[row["policy"]] = round(max(gap, gaps.get(row["policy"], 0.0)), 2)
    return gaps
