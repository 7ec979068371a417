"""The control plane by itself: durable submissions, Kueue's published load through the real ledger, cycles at scale.

`python -m tests.benchmarks.control_plane [--quick] [--folder DIR]`. Kueue's numbers are those of its own scheduler
performance test, which goes through a Kubernetes API server; there is none in our path, and jobs are timers here as
there. The books are a SQLite file with fsync in DIR (default: a temporary folder of the system).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks.control_cycles import cycles
from tests.benchmarks.control_kueue import BASELINE, FLUID_BOUND_S, kueue_baseline
from tests.benchmarks.control_submits import submits
from tests.benchmarks.harness import print_result, read_options, say


def main() -> None:
    """Run everything and print one JSON object."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--folder", type=Path, help="where the databases are made")
    options = read_options(__doc__ or "", extra=extra)
    with tempfile.TemporaryDirectory(dir=options.rest.folder) as name:
        folder = Path(name)
        say("submissions")
        submitted = submits(folder, quick=options.quick)
        say(str(submitted))
        at_10k = cycles(folder, queued=1_000 if options.quick else 10_000, nodes=100 if options.quick else 1_000)
        say(str(at_10k))
        kueue = kueue_baseline(folder, share=0.05 if options.quick else 1.0)
        say(str(kueue))
        at_100k = {} if options.quick else cycles(folder, queued=100_000, nodes=1_000, rounds=40)
        say(str(at_100k))
    print_result(
        {
            "benchmark": "control_plane",
            "submits_per_s": submitted["single_threads_16"],
            "submits": submitted,
            "kueue_baseline_s": kueue["wall_s"],
            "kueue_fluid_bound_s": FLUID_BOUND_S,
            "kueue": kueue,
            "kueue_published": BASELINE,
            "kueue_note": "Kueue's figures include a Kubernetes API server; there is none in our path",
            "cycle_p99_ms": {"10000": at_10k["p99_ms"], "100000": at_100k.get("p99_ms")},
            "cycles": {"10000": at_10k, "100000": at_100k},
            "rss_mib": {"10000": at_10k["rss_mib"], "100000": at_100k.get("rss_mib")},
        },
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
