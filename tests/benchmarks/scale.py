"""Resizes of a real job at 100 to 200 ranks: Ray Train, DeepSpeed, exit protocol, fork servers and keepers.

    python -m tests.benchmarks.scale [--quick] [--sizes 50,100,200,100,50] [--ranks-per-worker N] [--ranks-per-node N]
        [--fresh-memory]

Nodes are real raylets of this machine, all up before the job starts: elsewhere they would not share its cores. The
job's lease takes it from size to size, as `tide resize` and a control plane do. Per resize: the stall from last step
to next step and its parts; per part: the exponent x of a fit seconds ~ ranks^x over all sizes met; private memory per
rank beside the model.

With one worker per node that supervises its ranks, 200 ranks fit 24 GiB; `--ranks-per-worker 1` starts a Ray Train
worker for each rank. Free memory is filled with page cache first and before each resize (`resident.py`), which
`--fresh-memory` leaves out. A control says what the machine takes for nothing but forked processes that write to as
many pages as a rank does. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.adapters.ray_cluster import NodeSize
from orchestrator.adapters.ray_train.lease import FileLease, Lease
from tests.benchmarks.elastic_ours import events_of
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.resident import PageCacheFiller, page_cost_us, returned_gib
from tests.benchmarks.steplog import changes, step_time_s
from tests.benchmarks.systems import Ours, Workload
from tests.benchmarks.watching import Watch, packed_dataset, watched

# 0.12 million parameters: what is measured is the machinery around the model.
MODEL = {"layers": 2, "d_model": 64, "heads": 2, "seq_len": 32, "dropout": 0.0}
STEADY_STEPS = 8
PATIENCE_S = 1800.0
# New workers start on cores that the group is training on, which they would not elsewhere: a hundredth of a core each.
WARM_S = 900.0
# What a rank writes to from its fork to its first step's end, counted once.
PAGES_OF_A_RANK = 8000
# Parts of a stall that the group which leaves pays; the others belong to the group which comes.
LEAVING_PARTS = frozenset({"stop", "snapshot", "teardown"})


def main() -> None:
    """Run the sizes one after the other and print the result."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--sizes", default="")
    extra.add_argument("--ranks-per-worker", type=int, default=0, help="0: one worker per node")
    extra.add_argument("--ranks-per-node", type=int, default=0)
    extra.add_argument("--zero", type=int, default=1)
    extra.add_argument("--fresh-memory", action="store_true")
    options = read_options(__doc__ or "", extra=extra)
    sizes = [
        int(size) for size in (options.rest.sizes or ("4,8,4" if options.quick else "50,100,200,100,50")).split(",")
    ]
    per_node = options.rest.ranks_per_node or (2 if options.quick else 25)
    per_worker = options.rest.ranks_per_worker or per_node
    if any(size % per_node for size in sizes):
        raise SystemExit(f"--sizes {sizes}: every size must be a multiple of the {per_node} ranks of a node")
    workload = _workload(max(sizes), options.rest.zero)
    system = Ours(ranks_per_worker=per_worker, warm_s=WARM_S)
    nodes = (NodeSize(num_cpus=0), *[NodeSize(num_cpus=per_node)] * (max(sizes) // per_node))
    filler = None if options.quick or options.rest.fresh_memory else PageCacheFiller()
    if filler:
        say(f"free memory filled in {filler.fill():.0f} s")
    returned_before = returned_gib()
    control = {size: page_cost_us(size, PAGES_OF_A_RANK) for size in sorted(set(sizes))}
    say(f"kernel time of a copied page, us, by processes: {control}")
    with watched(system, workload, packed_dataset(), nodes, patience_s=PATIENCE_S, filler=filler) as (
        watch,
        _,
        workdir,
    ):
        memory = _walk(watch, FileLease(workdir / "home" / "runs" / "bench"), sizes)
        steps, events = watch.steps(), events_of(workdir / "home", "bench")
    found = changes(steps)
    print_result(
        {
            "benchmark": "scale",
            "workload": asdict(workload),
            "ranks_per_worker": per_worker,
            "ranks_per_node": per_node,
            "sizes": sizes,
            "stall_s": [round(change.stall_s, 2) for change in found],
            "steps_lost": [change.steps_lost for change in found],
            "step_s": {size: round(step_time_s(steps, size), 3) for size in sorted(set(sizes))},
            "parts_s": _rounded(parts_by_size(events)),
            "growth_exponent": growth_exponents(parts_by_size(events)),
            "memory_mib": memory,
            "returned_to_host_gib": round(returned_gib() - returned_before, 1),
            "control_page_us": {size: round(cost, 2) for size, cost in control.items()},
            "control_exponent": _exponent({size: size * cost for size, cost in control.items()}),
        },
        quick=options.quick,
    )


def _workload(most: int, zero_stage: int) -> Workload:
    return Workload(
        args=MODEL,
        min_workers=2,
        max_workers=most,
        global_batch_size=most,
        micro_batch_size=1,
        steps=1_000_000,
        checkpoint_every_steps=1000,
        snapshot_every_steps=20,
        zero_stage=zero_stage,
    )


def _walk(watch: Watch, lease: FileLease, sizes: list[int]) -> dict[str, dict[str, float]]:
    """Take the job through the sizes; private memory of a rank and of a Ray worker at each, and what the whole machine
    uses, in MiB."""
    memory: dict[str, dict[str, float]] = {}
    for size in sizes:
        watch.fill_memory()
        began_s = time.monotonic()
        lease.write(Lease(workers=size))
        watch.wait(lambda size=size: _steady(watch.steps(), size), f"{STEADY_STEPS} steps at {size}")
        memory[str(size)] = {
            "rank": round(median(_private_mib("tide-rank-")), 1),
            "worker": round(median(_private_mib("ray::")), 1),
            "machine_used": round(_used_mib()),
        }
        say(f"{size} ranks: steady after {time.monotonic() - began_s:.0f} s, MiB: {memory[str(size)]}")
    return memory


def _steady(steps: list[dict[str, Any]], size: int) -> bool:
    newest = [line["world_size"] for line in steps[-STEADY_STEPS:]]
    return newest == [size] * STEADY_STEPS


def _private_mib(name: str) -> list[float]:
    """Private memory of every process of this machine whose name begins so, in MiB."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().startswith(name):
                lines = (process / "smaps_rollup").read_text().splitlines()
                found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024)
        except OSError:
            continue
    return found


def _used_mib() -> float:
    kib = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    return (kib["MemTotal"] - kib["MemAvailable"]) / 1024


def parts_by_size(events: Iterable[dict[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """Seconds of every part of every stall, by part and by the size of the group that pays it. The very first start
    is left out: it has no state to load, and no group before it."""
    size, first = {}, None
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        if event["kind"] == "AttemptOpened":
            size[event["attempt"]] = event["world_size"]
            first = event["attempt"] if first is None else first
        elif event["kind"] == "StallPart" and (event["attempt"] != first or event["part"] in LEAVING_PARTS):
            found[event["part"]][size[event["attempt"]]].append(event["seconds"])
    return {part: dict(sizes) for part, sizes in found.items()}


def growth_exponents(parts: dict[str, dict[int, list[float]]]) -> dict[str, float | None]:
    """x of seconds ~ ranks^x by least squares over the medians at each size, on logarithms; None for fewer than two
    sizes. Parts below a hundredth of a second count as that: their growth is the clock's."""
    return {part: _exponent({n: median(times) for n, times in sizes.items()}) for part, sizes in parts.items()}


def _exponent(seconds: dict[int, float]) -> float | None:
    points = [(math.log(ranks), math.log(max(s, 0.01))) for ranks, s in seconds.items()]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(p[axis] for p in points) / len(points) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return round(sum((x - mean_x) * (y - mean_y) for x, y in points) / spread, 2)


def _rounded(parts: dict[str, dict[int, list[float]]]) -> dict[str, dict[int, list[float]]]:
    return {
        part: {n: [round(s, 3) for s in times] for n, times in sorted(sizes.items())} for part, sizes in parts.items()
    }


if __name__ == "__main__":
    main()
