"""One rank on one GPU through the product's own path: how well it computes, what snapshots cost, how it comes back.

    python -m tests.benchmarks.gpu [--quick] [--layers 24] [--d-model 1280] [--micro 8] [--zero 1]

bf16 under DeepSpeed ZeRO on real Ray, snapshots into shared memory. After enough steps the rank is killed -9 and the
run goes on from the keeper. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.adapters.ray_cluster import NodeSize
from tests.benchmarks.elastic_ours import events_of
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.steplog import changes
from tests.benchmarks.systems import Ours, Workload
from tests.benchmarks.watching import packed_dataset, watched

SNAPSHOT_EVERY = 20


def main() -> None:
    """Train, kill, recover, and print what was seen."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--layers", type=int, default=24)
    extra.add_argument("--d-model", type=int, default=1280)
    extra.add_argument("--micro", type=int, default=16)
    extra.add_argument("--zero", type=int, default=1)
    extra.add_argument("--snapshots", type=int, default=4)
    options = read_options(__doc__ or "", extra=extra)
    workload = _workload(options.rest, quick=options.quick)
    sizes = (NodeSize(num_cpus=0), NodeSize(num_cpus=2, num_gpus=1))
    enough = SNAPSHOT_EVERY * (2 if options.quick else options.rest.snapshots + 1)
    with watched(Ours(), workload, packed_dataset(), sizes, patience_s=240.0) as (watch, _, workdir):
        watch.wait(lambda: len(watch.steps()) >= enough, f"{enough} steps")
        killed_at = watch.steps()[-1]["step"]
        os.kill(rank_pid(), signal.SIGKILL)
        watch.wait(lambda: len(changes(watch.steps())) > 0, "the rank's return")
        watch.wait(lambda: watch.steps()[-1]["step"] > killed_at + 5, "steps after the return")
        steps, events = watch.steps(), events_of(workdir / "home", "bench")
    done = [event for event in events if event["kind"] == "StepDone"]
    snapshots = [event for event in events if event["kind"] == "Snapshotted"]
    undisturbed = [e for e in done if e["step"] % SNAPSHOT_EVERY >= 10]
    disturbed = [e for e in done if e["step"] > SNAPSHOT_EVERY and 1 <= e["step"] % SNAPSHOT_EVERY <= 5]
    stalls: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["kind"] == "StallPart":
            stalls[event["part"]].append(round(event["seconds"], 3))
    change, nbytes = changes(steps)[0], snapshots[-1]["num_bytes"] if snapshots else 0
    step_s = median(e["step_s"] for e in undisturbed)
    say(f"step {step_s:.3f} s, MFU {median(e['mfu'] for e in undisturbed):.3f}, stall {change.stall_s:.2f} s")
    print_result(
        {
            "benchmark": "gpu",
            "device": _device(),
            "args": dict(workload.args),
            "zero_stage": workload.zero_stage,
            "step_s": step_s,
            "tokens_per_s": undisturbed[0]["num_tokens"] / step_s,
            "mfu": median(e["mfu"] for e in undisturbed),
            "state_bytes": nbytes,
            "snapshot_held_s": [round(e["seconds"], 4) for e in snapshots],
            "snapshot_overhead": _overhead(disturbed, step_s),
            "restore_gb_per_s": nbytes / max(stalls["state"][-1], 1e-9) / 1e9,
            "stall_s": change.stall_s,
            "steps_lost": change.steps_lost,
            "parts_s": dict(stalls),
        },
        quick=options.quick,
    )


def _overhead(disturbed: list[dict[str, Any]], step_s: float) -> float:
    """Extra seconds in the five steps after a snapshot, as a share of all steps from one snapshot to the next."""
    extra = sum(e["step_s"] - step_s for e in disturbed) / max(1, len(disturbed)) * 5
    return extra / (SNAPSHOT_EVERY * step_s)


def _workload(rest: argparse.Namespace, *, quick: bool) -> Workload:
    layers, d_model = (4, 256) if quick else (rest.layers, rest.d_model)
    return Workload(
        args={"layers": layers, "d_model": d_model, "heads": d_model // 64, "seq_len": 1024, "dropout": 0.0},
        min_workers=1,
        max_workers=1,
        global_batch_size=rest.micro * 2,
        micro_batch_size=rest.micro,
        steps=100_000,
        checkpoint_every_steps=1000,
        snapshot_every_steps=SNAPSHOT_EVERY,
        zero_stage=rest.zero,
        precision="bf16",
        resources={"GPU": "1", "CPU": "1"},
    )


def rank_pid() -> int:
    """The process of rank 0. Raises: LookupError."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "tide-rank-0":
                return int(process.name)
        except OSError:
            continue
    raise LookupError("no rank runs on this machine")


def _device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
