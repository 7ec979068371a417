"""The competitor: plain Ray Tune as its documentation has it, with its defaults, on the same task and space.

A function trainable that trains the task with torch and AdamW and reports after each rung with `tune.report`; ASHA with
the same rungs; no failure is retried, because that is the default, and nothing is checkpointed, because no example of
the scheduler does. Steps are counted in a file that outlives the trials.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.data import ensure_dataset
from orchestrator.policy.study.rungs import report_steps
from orchestrator.policy.study.space import values_of
from orchestrator.spec import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTune:
    """What came of it; `device_s` is trials' own time, `failed` trials ended by an error."""

    trials: int
    failed: int
    steps: int
    device_s: float
    best: float | None
    settings: str = "Tuner(fn), ASHAScheduler, RunConfig and FailureConfig by default (max_failures 0)"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_plain(study: Study, home: Path, tick: Callable[[], None]) -> PlainTune:
    """Run the study's space and scheduler with Tune's own controller in a thread; `tick` plays the world meanwhile."""
    from ray import tune

    folder = Path(tempfile.mkdtemp(prefix="tide-plain-"))
    spec = study.spec
    (values,) = [values_of(parameter) for parameter in spec.space.values()]
    dataset = str(ensure_dataset(spec.template.data.dataset, home))
    scheduler: Any = spec.scheduler
    config = {
        "lr": tune.grid_search(list(values or ())),
        "args": dict(spec.template.args),
        "dataset": dataset,
        "seed": spec.template.data.seed,
        "batch": spec.template.batch.global_batch_size,
        "steps": spec.template.steps,
        "warmup": spec.template.optimizer.warmup_steps,
        "reports": report_steps(spec),
        "counts": str(folder),
    }
    tuner = tune.Tuner(
        tune.with_resources(train_plainly, {"cpu": 1}),
        param_space=config,
        tune_config=tune.TuneConfig(
            metric=spec.metric,
            mode=spec.mode,
            scheduler=tune.schedulers.ASHAScheduler(
                time_attr="step",
                max_t=spec.template.steps,
                grace_period=scheduler.grace_steps,
                reduction_factor=scheduler.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "results"), verbose=0),
    )
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(tuner.fit()), daemon=True)
    thread.start()
    while thread.is_alive():
        tick()
        time.sleep(0.25)
    (grid,) = results
    measured = [result.metrics[spec.metric] for result in grid if not result.error and spec.metric in result.metrics]
    final = [
        result.metrics[spec.metric]
        for result in grid
        if not result.error and result.metrics.get("step") == spec.template.steps
    ]
    counts = [path.read_text().split() for path in folder.glob("count-*")]
    return PlainTune(
        trials=len(grid),
        failed=grid.num_errors,
        steps=sum(int(count[0]) for count in counts),
        device_s=sum(float(count[1]) for count in counts),
        best=min(final or measured, default=None),
    )


def train_plainly(config: dict[str, Any]) -> None:
    """The documented pattern: a training function that reports."""
    began_s = time.monotonic()
    import numpy as np
    import torch
    from ray import tune

    from jobs.models.evaluate import evaluate
    from jobs.models.gpt import task as make_task
    from jobs.train.samples import SampleStream

    torch.set_num_threads(1)
    task = make_task(**config["args"])
    source = task.open_data(Path(config["dataset"]), "train")
    validation = task.open_data(Path(config["dataset"]), "validation")
    stream = SampleStream(source.num_samples, "plain", config["seed"], config["batch"])
    torch.manual_seed(config["seed"])
    model = task.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], betas=(0.9, 0.95), weight_decay=0.1)
    steps, warmup = config["steps"], config["warmup"]
    count = Path(config["counts"]) / f"count-{os.getpid()}-{time.time_ns()}"
    for step in range(1, steps + 1):
        progress = max(0.0, (step - 1 - warmup) / max(1, steps - 1 - warmup))
        rate = config["lr"] * min(step / warmup, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = task.loss(model, source.batch(np.asarray(stream.ids(step - 1))))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        count.write_text(f"{step} {time.monotonic() - began_s}")
        if step in config["reports"]:
            found = evaluate(model, task, validation, max_samples=128)
            tune.report({"bits_per_byte": found.metrics["bits_per_byte"], "step": step})
