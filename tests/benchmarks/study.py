"""Studies: what a search with early stopping saves, what preemptions add to it, and what moves with the width.

    python -m tests.benchmarks.study [--data DIR] [--quick] [--parts asha,preempt,budget,pbt,mup] [--seeds N]

asha     a grid of learning rates and weight decays, every configuration to its end against the same grid under ASHA:
         share of the steps, ratio of the best validation loss, over seeds (of data order and initial weights)
preempt  one search on two nodes that come and go as recorded (a share of the nodes, time compressed), against the same
         undisturbed; and plain Ray Tune with its defaults on the same events
budget   a real search with a budget in device-hours: how far over it ends, in rungs
pbt      a population whose learning rate may change against the best constant one
mup      the best learning rate at width 64 and at width 256, on one grid, scaled and plain

Every trial is a byte GPT on the standard library's sources, one rank, one thread, DeepSpeed ZeRO 1. The last line on
stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from jobs.data import ensure_dataset
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_tune.run import StudyOptions, run_study
from orchestrator.adapters.replay import load_node_events, share_of
from orchestrator.policy.study.rungs import largest_rung, report_steps
from orchestrator.policy.study.values import TrialState
from orchestrator.spec import Study, load_text
from orchestrator.study.record import StudyRecord
from orchestrator.study.summary import best_trial
from tests.benchmarks.harness import Options, print_result, read_options, say
from tests.benchmarks.study_plain import PlainTune, run_plain

METRIC = "bits_per_byte"
RATES = "[0.0003, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128]"
DECAYS = "[0.0, 0.1, 1.0]"
GRID = (
    f"{{optimizer.lr: {{type: choice, values: {RATES}}}, optimizer.weight_decay: {{type: choice, values: {DECAYS}}}}}"
)

STUDY = """
apiVersion: tideline/v1
kind: Study
metadata: {{name: {name}}}
spec:
  template:
    workers: {{min: 1, max: 1}}
    task: {task}
    args: {args}
    data: {{dataset: python-stdlib@latest, seed: {seed}}}
    batch: {{global_batch_size: {batch}, micro_batch_size: {batch}}}
    steps: {steps}
    optimizer: {optimizer}
    deepspeed: {{zero_stage: 1}}
  space: {space}
  searcher: {searcher}
  scheduler: {scheduler}
  metric: bits_per_byte
  mode: min
  concurrency: {{min: 1, max: 2}}
  budget: {budget}
  seed: {seed}
"""


def make_study(name: str, **changes: Any) -> Study:
    """A study of the benchmark's small model, changed as asked."""
    values: dict[str, Any] = {
        "name": name,
        "task": "jobs.models.gpt:task",
        "args": "{layers: 1, d_model: 32, heads: 1, seq_len: 64}",
        "seed": 1,
        "batch": 8,
        "steps": 243,
        "optimizer": "{schedule: cosine, warmup_steps: 8}",
        "space": GRID,
        "searcher": "{name: grid}",
        "scheduler": "{name: none}",
        "budget": "{trials: 27}",
    }
    (study,) = load_text(STUDY.format(**(values | changes)))
    assert isinstance(study, Study)
    return study


class Bench:
    """One folder with the data set, and runs of studies in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ensure_dataset("python-stdlib@latest", home)

    def run(self, study: Study, tick: Callable[[], None] = lambda: None) -> StudyRecord:
        """A study on the cluster this process is connected to; `tick` is called several times a second."""

        def wants_stop() -> int:
            tick()
            return 0

        began_s = time.monotonic()
        shutil.rmtree(self.home / "studies" / study.metadata.name, ignore_errors=True)
        record = run_study(study, self.home, StudyOptions(evaluation_samples=128, wants_stop=wants_stop))
        say(
            f"{study.metadata.name}: {len(record.trials)} trials, {steps_of(record)} steps, "
            f"best {best_of(study, record):.4f}, {time.monotonic() - began_s:.0f} s"
        )
        return record


def steps_of(record: StudyRecord) -> int:
    return sum(trial.steps_run for trial in record.trials.values())


def best_of(study: Study, record: StudyRecord) -> float:
    found = best_trial(study, record)
    value = found.value(METRIC) if found else None
    return float("nan") if value is None else value


def main() -> None:
    """Run the parts and print the result."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--parts", default="asha,preempt,budget,pbt,mup")
    extra.add_argument("--seeds", type=int, default=5)
    options = read_options(__doc__ or "", extra=extra)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    parts = {"asha": asha, "preempt": preempt, "budget": budget, "pbt": pbt, "mup": mup}
    result: dict[str, Any] = {"model": "byte GPT, 1 layer, width 32, 64 bytes", "settings": {}}
    home = Path(tempfile.mkdtemp(prefix="tide-study-"))
    try:
        bench = Bench(home)
        for name in options.rest.parts.split(","):
            found = parts[name](bench, options)
            say(f"{name}: {json.dumps(found, default=str)}")
            result |= found
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print_result(result, quick=options.quick)


@contextlib.contextmanager
def cores(count: int = 2) -> Iterator[LocalCluster]:
    with LocalCluster((NodeSize(num_cpus=count),)) as cluster:
        yield cluster


def asha(bench: Bench, options: Options) -> dict[str, Any]:
    """Steps and best loss of ASHA against the whole grid."""
    steps = 81 if options.quick else 243
    rows = []
    with cores():
        for seed in range(1, (1 if options.quick else options.rest.seeds) + 1):
            whole = make_study(f"grid-{seed}", seed=seed, steps=steps)
            cut = make_study(
                f"asha-{seed}",
                seed=seed,
                steps=steps,
                scheduler="{name: asha, grace_steps: 9, reduction_factor: 3}",
            )
            grid_record, asha_record = bench.run(whole), bench.run(cut)
            rows.append(
                {
                    "seed": seed,
                    "grid_steps": steps_of(grid_record),
                    "asha_steps": steps_of(asha_record),
                    "grid_best": best_of(whole, grid_record),
                    "asha_best": best_of(cut, asha_record),
                    "grid_device_s": grid_record.device_s,
                    "asha_device_s": asha_record.device_s,
                }
            )
    shares = [row["asha_steps"] / row["grid_steps"] for row in rows]
    ratios = [row["asha_best"] / row["grid_best"] for row in rows]
    return {
        "steps_share": mean(shares),
        "steps_share_range": [min(shares), max(shares)],
        "loss_ratio": mean(ratios),
        "loss_ratio_range": [min(ratios), max(ratios)],
        "asha": rows,
    }


class Events:
    """Recorded removals and additions of the second node, played while a search runs.

    Every removal of a share of the recorded nodes takes the second node away without notice; it is back as soon as the
    recording adds a node again, and after 15 s at the latest.
    """

    def __init__(self, cluster: LocalCluster, at_s: list[tuple[float, str]]) -> None:
        self._cluster, self._due = cluster, sorted(at_s)
        self._began_s = time.monotonic()
        self._node: str | None = cluster.add_node(NodeSize(num_cpus=1)).node_id
        self.kills = 0

    def tick(self) -> None:
        """Play what is due; in the main thread, as Ray's nodes must be."""
        now_s = time.monotonic() - self._began_s
        while self._due and self._due[0][0] <= now_s:
            _, what = self._due.pop(0)
            if what == "remove" and self._node is not None:
                self._cluster.kill_node(self._node)
                self._node, self.kills = None, self.kills + 1
                self._due = sorted([*self._due, (now_s + 15.0, "add")])
            elif what == "add" and self._node is None:
                self._node = self._cluster.add_node(NodeSize(num_cpus=1)).node_id


def recorded(options: Options, *, speed: float, within_s: float) -> list[tuple[float, str]]:
    """When nodes went and came, compressed; the first moment's additions are the cluster itself."""
    recording = load_node_events(options.data / "preemption-events" / "aws-p3.csv")
    events = share_of(recording, share=24, seconds=within_s * speed)
    return [(event.at_s / speed, event.event) for event in events if event.at_s > 0.0]


def preempt(bench: Bench, options: Options) -> dict[str, Any]:
    """The same search undisturbed and under recorded preemptions, ours and plain Ray Tune's."""
    events = recorded(options, speed=400.0, within_s=240.0)
    steps = 243 if options.quick else 729
    study = make_study(
        "calm",
        steps=steps,
        space=f"{{optimizer.lr: {{type: choice, values: {RATES}}}}}",
        scheduler="{name: asha, grace_steps: 27, reduction_factor: 3}",
    )
    rows: dict[str, Any] = {}
    for name, disturbances in (("calm", []), ("preempted", events)):
        named = study.model_copy(update={"metadata": study.metadata.model_copy(update={"name": name})})
        with LocalCluster((NodeSize(num_cpus=0), NodeSize(num_cpus=1))) as cluster:
            played = Events(cluster, list(disturbances))
            record = bench.run(named, played.tick)
        rows[f"ours_{name}"] = {
            "kills": played.kills,
            "steps": steps_of(record),
            "lost_steps": sum(trial.lost_steps for trial in record.trials.values()),
            "device_s": record.device_s,
            "failed": sum(trial.state is TrialState.FAILED for trial in record.trials.values()),
            "best": best_of(named, record),
        }
        with LocalCluster((NodeSize(num_cpus=0), NodeSize(num_cpus=1))) as cluster:
            played = Events(cluster, list(disturbances))
            plain: PlainTune = run_plain(named, bench.home, played.tick)
        rows[f"plain_{name}"] = {"kills": played.kills, **plain.to_json()}
        say(f"plain Ray Tune, {name}: {plain.to_json()}")
    calm, hit = rows["ours_calm"], rows["ours_preempted"]
    return {
        "preempt": rows,
        "preempted_steps_ratio": hit["steps"] / calm["steps"],
        "preempted_device_s_ratio": hit["device_s"] / calm["device_s"],
        "plain_preempted_failed": rows["plain_preempted"]["failed"],
    }


def budget(bench: Bench, options: Options) -> dict[str, Any]:
    """A real search that its budget in device-hours ends."""
    limit_h = 0.008 if options.quick else 0.02
    study = make_study(
        "budget",
        budget=f"{{device_hours: {limit_h}}}",
        space="{optimizer.lr: {type: loguniform, min: 3e-4, max: 0.1}}",
        searcher="{name: tpe}",
        scheduler="{name: asha, grace_steps: 9, reduction_factor: 3}",
    )
    with cores():
        record = bench.run(study)
    per_step_s = record.device_s / max(1, steps_of(record))
    rung_s = largest_rung(report_steps(study.spec)) * per_step_s
    over_s = record.device_s - limit_h * 3600
    return {
        "budget": {
            "device_hours": limit_h,
            "used_device_hours": record.device_s / 3600,
            "over_s": over_s,
            "rung_s": rung_s,
            "over_rungs": over_s / rung_s,
            "closed": str(record.close_reason),
        }
    }


def pbt(bench: Bench, options: Options) -> dict[str, Any]:
    """A population against the best constant rate, on one budget of steps a trial."""
    steps = 160 if options.quick else 480
    common: dict[str, Any] = {"steps": steps, "optimizer": "{schedule: constant, warmup_steps: 8}"}
    constant = make_study(
        "constant", space=f"{{optimizer.lr: {{type: choice, values: {RATES}}}}}", budget="{trials: 9}", **common
    )
    population = make_study(
        "population",
        space="{optimizer.lr: {type: loguniform, min: 3e-4, max: 0.128}}",
        searcher="{name: random}",
        scheduler=f"{{name: pbt, interval_steps: {steps // 12}, quantile: 0.25, resample: 0.1}}",
        budget="{trials: 9}",
        **common,
    )
    with cores():
        best_constant = best_of(constant, bench.run(constant))
        record = bench.run(population)
    best = best_trial(population, record)
    assert best is not None
    return {
        "pbt": {
            "best_constant": best_constant,
            "population": best_of(population, record),
            "ratio": best_of(population, record) / best_constant,
            "copies": sum(len(trial.changes) for trial in record.trials.values()),
            "rates_of_best": sorted({(step, lr) for step, _, lr in best.curve if step % (steps // 12) == 0}),
        }
    }


def mup(bench: Bench, options: Options) -> dict[str, Any]:
    """Where the best rate lies at two widths, with and without the scaling."""
    steps = 40 if options.quick else 100
    rates = "[0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]"
    found: dict[str, dict[int, dict[float, float]]] = {}
    with cores():
        for kind, task, more in (
            ("scaled", "jobs.models.gpt_mup:task", ", base_width: 64"),
            ("plain", "jobs.models.gpt:task", ""),
        ):
            found[kind] = {}
            for width in (64, 256):
                study = make_study(
                    f"{kind}-{width}",
                    task=task,
                    args=f"{{layers: 2, d_model: {width}, heads: 4, seq_len: 64{more}}}",
                    steps=steps,
                    optimizer="{schedule: cosine, warmup_steps: 8, weight_decay: 0.0}",
                    space=f"{{optimizer.lr: {{type: choice, values: {rates}}}}}",
                    budget="{trials: 8}",
                )
                record = bench.run(study)
                found[kind][width] = {
                    float(trial.config["optimizer.lr"]): trial.value(METRIC) or float("nan")
                    for trial in record.trials.values()
                }
    best = {
        kind: {width: min(values, key=lambda lr: values[lr]) for width, values in widths.items()}
        for kind, widths in found.items()
    }
    grid = sorted(found["scaled"][64])
    apart = {kind: grid.index(rates_[256]) - grid.index(rates_[64]) for kind, rates_ in best.items()}
    return {"mup": {"best_rate": best, "grid_steps_apart": apart, "losses": found}}


if __name__ == "__main__":
    main()
