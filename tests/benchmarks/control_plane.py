"""The control plane by itself: durable submissions, Kueue's published loads through the real ledger, cycles at scale.

`python -m tests.benchmarks.control_plane [--quick] [--folder DIR] [--cases CASE,CASE...]`, of submits, cycles (at
10,000 queued jobs), many (at 100,000), baseline, large and topology. Kueue's numbers are those of its own scheduler
performance test, which goes through a Kubernetes API server; there is none in our path, and jobs are timers here as
there. The books are a SQLite file with fsync in DIR (default: a temporary folder of the system).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.control_cycles import cycles
from tests.benchmarks.control_kueue import CASES, kueue
from tests.benchmarks.control_submits import submits
from tests.benchmarks.harness import print_result, read_options, say

_ALL = ("submits", "cycles", "many", *CASES)


def main() -> None:
    """Run what was asked for and print one JSON object."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--folder", type=Path, help="where the databases are made")
    extra.add_argument("--cases", default=",".join(_ALL), help="which of them, with commas between (default: all)")
    options = read_options(__doc__ or "", extra=extra)
    cases = options.rest.cases.split(",")
    if unknown := sorted(set(cases) - set(_ALL)):
        extra.error(f"--cases: there is no {', '.join(unknown)}; must be of {', '.join(_ALL)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.rest.folder) as name:
        for case in cases:
            say(case)
            found[case] = _measure(case, Path(name), quick=options.quick)
            say(str(found[case]))
    print_result(_result(found), quick=options.quick)


def _measure(case: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    if case == "submits":
        return submits(folder, quick=quick)
    if case == "cycles":
        return cycles(folder, queued=1_000 if quick else 10_000, nodes=100 if quick else 1_000)
    if case == "many":
        return {} if quick else cycles(folder, queued=100_000, nodes=1_000, rounds=40)
    return kueue(folder, case, share=0.05 if quick else 1.0)


def _result(found: dict[str, Any]) -> dict[str, Any]:
    """The keys that others read; None for what was not measured."""
    submitted, baseline = found.get("submits", {}), found.get("baseline", {})
    at = {jobs: found[case] for case, jobs in (("cycles", "10000"), ("many", "100000")) if case in found}
    return {
        "benchmark": "control_plane",
        "submits_per_s": submitted.get("http_single_connections_32"),
        "submits": submitted,
        "kueue_baseline_s": baseline.get("wall_s"),
        "kueue_fluid_bound_s": baseline.get("fluid_bound_s"),
        "kueue": {name: found[name] for name in CASES if name in found},
        "kueue_note": "Kueue's figures include a Kubernetes API server; there is none in our path",
        "cycle_p99_ms": {queued: one.get("p99_ms") for queued, one in at.items()},
        "cycles": at,
        "rss_mib": {queued: one.get("rss_mib") for queued, one in at.items()},
    }


if __name__ == "__main__":
    main()
