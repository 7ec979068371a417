"""Our side of `elastic`: one job through the product's own path, on a cluster that somebody else grows and shrinks.

Run as a process: `python -m tests.benchmarks.elastic_ours JOB.yaml HOME ADDRESS RANKS_PER_WORKER WARM_S`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.train.samples import SampleStream, join_halves


def main(job_file: Path, home: Path, address: str, ranks_per_worker: int, warm_s: float) -> None:
    """Run the job to its end on the Ray cluster at `address`."""
    import ray

    from orchestrator.adapters.ray_train.run import HABITS, RunOptions, run_train_job
    from orchestrator.adapters.ray_train.signals import StopSignals
    from orchestrator.spec import TrainJob, load_one

    ray.init(address=address, namespace="tideline", log_to_driver=False)
    with StopSignals() as signals:
        habits = replace(HABITS, warm_s=warm_s)
        options = RunOptions(ranks_per_worker=ranks_per_worker, habits=habits, wants_stop=signals)
        result = run_train_job(load_one(job_file, TrainJob), home, options=options)
    if result.detail:
        raise SystemExit(result.detail)


def events_of(home: Path, run: str) -> list[dict[str, Any]]:
    """The run's events so far, as JSON objects, oldest first; a torn last line is left out."""
    path = home / "runs" / run / "events.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def steps_of(home: Path, run: str) -> list[dict[str, Any]]:
    """The run's step lines in the form that `steplog` reads."""
    return [
        {key: event[key] for key in ("step", "world_size", "at_s", "loss")}
        for event in events_of(home, run)
        if event["kind"] == "StepDone"
    ]


def stall_parts(home: Path, run: str) -> dict[str, float]:
    """Seconds of each part of the newest stall: how the attempt before ended, and how the newest began."""
    events = events_of(home, run)
    newest = max(event["attempt"] for event in events if event["kind"] == "AttemptOpened")
    closing = {"stop", "snapshot", "teardown"}
    return {
        event["part"]: round(event["seconds"], 3)
        for event in events
        if event["kind"] == "StallPart" and event["attempt"] == (newest - 1 if event["part"] in closing else newest)
    }


def wrong_samples(home: Path, run: str, *, num_samples: int, manifest_hash: str, seed: int, batch: int) -> int:
    """Samples of surviving steps that cannot be shown to have been used exactly once: a step that is missing, or whose
    ledger hash, summed over all ranks, is not what the step must have."""
    stream = SampleStream(num_samples, manifest_hash, seed, batch)
    used = {
        event["step"]: join_halves(*event["ledger"]) for event in events_of(home, run) if event["kind"] == "StepDone"
    }
    steps = range(1, max(used, default=0) + 1)
    return batch * sum(used.get(step) != stream.step_hash(step - 1) for step in steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
