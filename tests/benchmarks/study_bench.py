"""What the parts of the studies' benchmark share: the small model's study, a folder to run it in, what came of it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.data import ensure_dataset
from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from orchestrator.adapters.ray_tune.run import StudyOptions, run_study
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study, load_text
from orchestrator.study.record import StudyRecord
from orchestrator.study.summary import best_trial
from tests.benchmarks.harness import Options, say
from tests.benchmarks.study_plain import EVALUATION_SAMPLES

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
    checkpoint: {{every: {every}}}
  space: {space}
  searcher: {searcher}
  scheduler: {scheduler}
  metric: {metric}
  mode: min
  concurrency: {{min: 1, max: 2}}
  budget: {budget}
  seed: {seed}
"""


def make_study(name: str, **changes: Any) -> Study:
    """A study of the benchmark's small model, changed as asked."""
    values: dict[str, Any] = {
        "name": name,
        "metric": METRIC,
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
        "every": "10m",
    }
    (study,) = load_text(STUDY.format(**(values | changes)))
    assert isinstance(study, Study)
    return study


class Bench:
    """One folder with the data set, and runs of studies in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ensure_dataset("python-stdlib@latest", home)

    def run(self, study: Study, rates: Rates | None = None, wants_stop: Callable[[], int] = lambda: 0) -> StudyRecord:
        """A study on the cluster this process is connected to."""
        began_s = time.monotonic()
        shutil.rmtree(self.home / "studies" / study.metadata.name, ignore_errors=True)
        options = StudyOptions(rates=rates or Rates(), evaluation_samples=EVALUATION_SAMPLES, wants_stop=wants_stop)
        record = run_study(study, self.home, options)
        say(
            f"{study.metadata.name}: {len(record.trials)} trials, {steps_of(record)} steps, "
            f"best {best_of(study, record):.4f}, {time.monotonic() - began_s:.0f} s"
        )
        return record


def seeds_of(options: Options, most: int | None = None) -> list[int]:
    """The seeds that were asked for, one with `--quick`, and `most` at most."""
    count = 1 if options.quick else options.rest.seeds
    first: int = options.rest.first_seed
    return list(range(first, first + (count if most is None else min(count, most))))


def steps_of(record: StudyRecord) -> int:
    return sum(trial.steps_run for trial in record.trials.values())


def best_of(study: Study, record: StudyRecord) -> float:
    found = best_trial(study, record)
    value = found.value(study.spec.metric) if found else None
    return float("nan") if value is None else value


@contextlib.contextmanager
def cores(count: int = 2) -> Iterator[LocalCluster]:
    with LocalCluster((NodeSize(num_cpus=count),)) as cluster:
        yield cluster
