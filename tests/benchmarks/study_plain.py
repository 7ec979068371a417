"""The competitor: Ray Tune's own `Tuner` on the same task, space, rungs and nodes, in two forms.

`DEFAULTS`: the documented pattern and nothing set beside it. A function trainable that trains with torch and AdamW and
reports after each rung; no checkpoint, and `FailureConfig` as it is (max_failures 0): a trial whose node dies is over.

`TUNED`: as good as the documentation lets it be. A report with a checkpoint (model, optimizer, step) after each
rung, and in between by the rule that our trials follow (as often as that takes a twentieth of the time, and as the
template says at least), without measuring anew; a trial begins from `tune.get_checkpoint()`; `max_failures` is -1: a
lost trial is started again for ever.

Steps and seconds are counted per start in files that outlive the trials; the seconds begin when torch is imported and
end with the last step, so what Ray, the imports and the last report cost is left out in the competitor's favour.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobs.data import ensure_dataset
from jobs.study.on_the_way import SHARE, UNMEASURED_S
from orchestrator.policy.study.rungs import report_steps
from orchestrator.policy.study.space import values_of
from orchestrator.spec import Study

T = TypeVar("T")
TICK_S = 0.1
LIMIT_S = 900.0
"""Of one search, by the clock: it needs two or three minutes, and one that hangs must not take the others along."""
EVALUATION_SAMPLES = 128
_COUNT = "{:>12d} {:>12d} {:>20.6f}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the competitor is set up."""

    name: str
    checkpoints: bool
    max_failures: int


DEFAULTS = Form(name="defaults", checkpoints=False, max_failures=0)
TUNED = Form(name="tuned", checkpoints=True, max_failures=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTune:
    """What came of it; `device_s` is the trials' own time, `failed` trials ended by an error, `best` is of those that
    ran to their end (where none did: of all that reported)."""

    form: Form
    trials: int
    starts: int
    failed: int
    finished: int
    steps: int
    device_s: float
    best: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_plain(study: Study, home: Path, form: Form, tick: Callable[[], None]) -> PlainTune:
    """Run the study's space and scheduler with Tune's own controller in a thread; `tick` plays the world meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="tide-plain-"))
    tuner = _tuner(study, home, form, folder)
    grid = beside(tuner.fit, tick)
    starts, steps, device_s = counted(folder)
    metric, end = study.spec.metric, study.spec.template.steps
    measured = [found.metrics for found in grid if not found.error and found.metrics and metric in found.metrics]
    final = [metrics for metrics in measured if metrics["step"] == end]
    values = [metrics[metric] for metrics in final or measured]
    return PlainTune(
        form=form,
        trials=len(grid),
        starts=starts,
        failed=grid.num_errors,
        finished=len(final),
        steps=steps,
        device_s=device_s,
        best=min((value for value in values if math.isfinite(value)), default=None),
    )


def counted(folder: Path) -> tuple[int, int, float]:
    """Starts, steps and seconds of all trials; one that was killed before its first step has left an empty file."""
    counts = [path.read_text().split() for path in folder.glob("count-*")]
    whole = [(int(first), int(last), float(seconds)) for first, last, seconds in filter(None, counts)]
    return len(counts), sum(last - first for first, last, _ in whole), sum(seconds for _, _, seconds in whole)


def beside(run: Callable[[], T], tick: Callable[[], None]) -> T:
    """What `run` returns, in a thread of its own, while this one, to which Ray's nodes are tied, plays the world."""
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(run())
        except BaseException as error:  # raised again below, in the thread that asked
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # where `tick` fails, nobody waits for what it leaves behind
    while not found.done():
        tick()
        time.sleep(TICK_S)
    return found.result()


def _tuner(study: Study, home: Path, form: Form, folder: Path) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    spec = study.spec
    (values,) = [values_of(parameter) for parameter in spec.space.values()]
    scheduler: Any = spec.scheduler
    config = {
        "lr": tune.grid_search(list(values or ())),
        "args": dict(spec.template.args),
        "dataset": str(ensure_dataset(spec.template.data.dataset, home)),
        "seed": spec.template.data.seed,
        "batch": spec.template.batch.global_batch_size,
        "steps": spec.template.steps,
        "warmup": spec.template.optimizer.warmup_steps,
        "reports": report_steps(spec),
        "counts": str(folder),
        "checkpoints": form.checkpoints,
        "save_every_s": spec.template.checkpoint.every if form.checkpoints else math.inf,
        "evaluation_samples": EVALUATION_SAMPLES,
    }
    return tune.Tuner(
        tune.with_resources(train_plainly, {"cpu": 1}),
        param_space=config,
        tune_config=tune.TuneConfig(
            metric=spec.metric,
            mode=spec.mode,
            time_budget_s=LIMIT_S,
            scheduler=ASHAScheduler(
                time_attr="step",
                max_t=spec.template.steps,
                grace_period=scheduler.grace_steps,
                reduction_factor=scheduler.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "results"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=form.max_failures),
        ),
    )


def train_plainly(config: dict[str, Any]) -> None:
    """The documented pattern: a training function that reports, and takes up its checkpoint where there is one."""
    import numpy as np
    import torch
    from ray import tune

    from jobs.models.evaluate import evaluate
    from jobs.models.gpt import task as make_task
    from jobs.train.samples import SampleStream

    began_s = time.monotonic()
    torch.set_num_threads(1)
    task = make_task(**config["args"])
    source = task.open_data(Path(config["dataset"]), "train")
    validation = task.open_data(Path(config["dataset"]), "validation")
    stream = SampleStream(source.num_samples, "plain", config["seed"], config["batch"])
    torch.manual_seed(config["seed"])
    model = task.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], betas=(0.9, 0.95), weight_decay=0.0)
    first = _take_up(tune.get_checkpoint(), model, optimizer)
    steps, warmup, saved_s = config["steps"], config["warmup"], time.monotonic()
    value, took_s = math.nan, UNMEASURED_S
    count_fd = os.open(Path(config["counts"]) / f"count-{os.getpid()}-{time.time_ns()}", os.O_CREAT | os.O_WRONLY)
    for step in range(first + 1, steps + 1):
        progress = max(0.0, (step - 1 - warmup) / max(1, steps - 1 - warmup))
        rate = config["lr"] * min(step / warmup, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = task.loss(model, source.batch(np.asarray(stream.ids(step - 1))))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # One short write at a fixed place: whatever kills the trial, the count is whole.
        os.pwrite(count_fd, _COUNT.format(first, step, time.monotonic() - began_s).encode(), 0)
        every_s = min(config["save_every_s"], took_s / SHARE)
        if step in config["reports"] or (config["checkpoints"] and time.monotonic() - saved_s >= every_s):
            if step in config["reports"] or math.isnan(value):
                value = evaluate(model, task, validation, max_samples=config["evaluation_samples"]).metrics[
                    "bits_per_byte"
                ]
            reported_s = time.monotonic()
            _report(value, step, model, optimizer, saved=config["checkpoints"])
            saved_s = time.monotonic()
            took_s = saved_s - reported_s


def _take_up(checkpoint: Any, model: Any, optimizer: Any) -> int:
    """The step to go on from."""
    import torch

    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        saved = torch.load(Path(folder) / "state.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _report(value: float, step: int, model: Any, optimizer: Any, *, saved: bool) -> None:
    import torch
    from ray import tune

    metrics = {"bits_per_byte": value, "step": step}
    if not saved:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, Path(folder) / "state.pt")
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
