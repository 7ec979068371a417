"""The planner against published runs: what each kind of row says, and what our formulas make of its inputs.

    python -m tests.benchmarks.planner [--data DIR]

Reads `planner-reference/` in place. `kinds` holds |ours - published| / published by kind (`mfu`: in percentage points),
`baselines` the same of what one would do without the planner, on the same rows, `calibration` what was measured on
which rows, `memory` how runs that fitted their devices come out, and `misses` every kind that stays above what it must
reach. Nothing was fitted on the row it is compared with. It is arithmetic: the same figures on every machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import print_result, read_options
from tests.benchmarks.planner_memory import fits_of
from tests.benchmarks.planner_rows import Error, accounting_errors, read_rows
from tests.benchmarks.planner_times import calibration, time_errors

TARGETS = {  # kind -> (mean, max) to stay within; relative, mfu in points
    "mfu": (0.01, 0.01),
    "iteration_time": (0.05, 0.10),
    "iteration_time_full_recomputation": (0.05, 0.10),
    "energy": (0.012, 0.012),
    "co2e": (0.024, 0.024),
    "chinchilla_table_3": (0.08, 0.08),
    "chinchilla_table_a3_approach_3": (0.08, 0.08),
}
ROUNDING = 5e-4  # targets are stated to three digits: 0.0803 is the 8 % of the paper's own rounding
CALCULON = {"mean": 0.0365, "max": 0.0887, "rows": 8, "source": "Isaev et al., SC 2023 (Calculon), the same 2 x 4 runs"}


def kinds_of(errors: Iterable[Error], *, baseline: bool = False) -> dict[str, dict[str, Any]]:
    """Mean, greatest and number of errors by kind; the row of the greatest with it."""
    by_kind: dict[str, list[Error]] = {}
    for error in errors:
        if not baseline or error.baseline is not None:
            by_kind.setdefault(error.kind, []).append(error)
    found = {}
    for kind, rows in by_kind.items():
        sizes = {row.name: row.of_baseline if baseline else row.size for row in rows}
        worst = max(sizes, key=lambda name: sizes[name])
        found[kind] = {
            "mean": statistics.fmean(row.of_baseline if baseline else row.size for row in rows),
            "max": sizes[worst],
            "rows": len(rows),
            "worst": worst,
        }
    return found


def misses_of(kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What stays above its target, in words."""
    return {
        kind: f"mean {kinds[kind]['mean']:.4f} (reach {mean}), max {kinds[kind]['max']:.4f} (reach {most})"
        for kind, (mean, most) in TARGETS.items()
        if kinds[kind]["mean"] > mean + ROUNDING or kinds[kind]["max"] > most + ROUNDING
    }


def show(kinds: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]]) -> None:
    """A table for people, on stderr."""
    table = Table("kind", "rows", "mean", "max", "worst row", "baseline: mean", "max", title="errors")
    for kind, found in kinds.items():
        bare = baselines.get(kind)
        table.add_row(
            *(kind, str(found["rows"]), f"{found['mean']:.4f}", f"{found['max']:.4f}", found["worst"]),
            *(("-", "-") if bare is None else (f"{bare['mean']:.4f}", f"{bare['max']:.4f}")),
        )
    Console(stderr=True, width=150).print(table)


def compare(folder: Path) -> dict[str, Any]:
    """Everything of the last line, from a folder with `reference.csv`, `mfu_bench.csv` and `hardware.csv`."""
    reference, bench, hardware = (read_rows(folder / f"{name}.csv") for name in ("reference", "mfu_bench", "hardware"))
    errors = [*accounting_errors(reference, bench, hardware), *time_errors(reference, bench)]
    kinds = kinds_of(errors)
    return {
        "benchmark": "planner",
        "kinds": kinds,
        "baselines": kinds_of(errors, baseline=True) | {"calculon_as_published": CALCULON},
        "memory": fits_of(bench),
        "calibration": calibration(reference),
        "misses": misses_of(kinds),
        "rows": [error.as_dict() for error in errors],
    }


def main() -> None:
    options = read_options(__doc__ or "")
    result = compare(options.data / "planner-reference")
    show(result["kinds"], result["baselines"])
    print_result(result, quick=options.quick)


if __name__ == "__main__":
    main()
