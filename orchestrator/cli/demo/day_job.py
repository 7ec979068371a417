"""The demo's nightly job as a holder of a lease in this process: orders come by its folder, reports go there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.adapters.jobs.chronicle import Chronicle, plan_of
from orchestrator.adapters.jobs.desk import Desk
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.process import TICK_S
from orchestrator.adapters.ray_train.events import Event, Status
from orchestrator.adapters.ray_train.governor import Habits
from orchestrator.adapters.ray_train.run import HABITS, RunOptions, run_train_job
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.queueing.orders import Phase
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import ExitCode, UserError

# The day passes about a thousand times as fast as it was recorded; the job's restraint is only a tenth of the usual.
_FASTER = 10.0


def quick_habits() -> Habits:
    """Restraint for a world in which an hour lasts a few seconds."""
    rules = replace(HABITS.rules, dwell_s=HABITS.rules.dwell_s / _FASTER, settle_s=0.5, collect_s=1.0)
    return replace(HABITS, rules=rules, stay_s=HABITS.stay_s / _FASTER, stall_s=4.0, stop_s=2.0)


@contextlib.contextmanager
def held(folder: JobFolder) -> Iterator[None]:
    """Be the job's process before there is an order for it, so that none is started."""
    with contextlib.ExitStack() as stack:
        if not folder.live(stack):
            raise AssertionError(f"{folder.path} is new, and somebody holds it")
        yield


def train(job: TrainJob, home: Path, folder: JobFolder, *, wants_stop: Callable[[], int],
          on_event: Callable[[Event], None]) -> None:  # fmt: skip
    """Train under the orders that come until `wants_stop`, which is asked here. The folder is held already.

    Raises: UserError (job_failed) for a run that ends otherwise.
    """
    desk = _desk(job, home, folder)
    desk.look()
    ended = threading.Event()
    ticker = threading.Thread(target=_tick, args=(desk, ended), name="desk", daemon=True)
    ticker.start()

    def observe(event: Event) -> None:
        desk.observe(event)
        on_event(event)

    try:
        options = RunOptions(wants_stop=wants_stop, read_lease=desk.lease, habits=quick_habits())
        result = run_train_job(job, home, on_event=observe, options=options)
    finally:
        ended.set()
        ticker.join()
    desk.finish(Phase.STOPPED, result.detail)
    if result.status is not Status.PAUSED:
        raise UserError(f"the job {result.status}: {result.detail}", code=ExitCode.JOB_FAILED, where="the demo's day")


def _desk(job: TrainJob, home: Path, folder: JobFolder) -> Desk:
    workers, batch, habits = job.spec.workers, job.spec.batch, quick_habits()
    plan = plan_of(
        min_workers=workers.min,
        max_workers=workers.max,
        batch=BatchPlan(batch.global_batch_size, batch.micro_batch_size),
        habits=habits,
    )
    chronicle = Chronicle(folder.job, plan=plan, steps=job.spec.steps, habits=habits)
    log = LogWriter(home / "logs", folder.job, home / "runs" / folder.job / "logs", lambda: f"{time.time():.3f}")
    return Desk(folder, chronicle, log, time.time)


def _tick(desk: Desk, ended: threading.Event) -> None:
    while not ended.wait(TICK_S):
        desk.look()
