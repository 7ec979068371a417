"""The process of one training job: reads orders, runs the job on Ray, reports every attempt, and keeps its log.

Processes of endpoints and studies begin here, too, and go on in `adapters.endpoints.process` and `study_process`.

It knows the control plane only through its folder, so that it never notices whether one is there. Run by
`python -m orchestrator.adapters.jobs.process FOLDER`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.adapters.jobs.aside import Aside, leaves_versions
from orchestrator.adapters.jobs.chronicle import Chronicle, plan_of
from orchestrator.adapters.jobs.desk import Desk
from orchestrator.adapters.jobs.door import Door
from orchestrator.adapters.jobs.ending import End, do_afterwards, end_of_night
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.log_writer import LogWriter
from orchestrator.adapters.jobs.night import Nights
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.policy.lending.session import NO_ENDING, Stage, StageReason
from orchestrator.policy.queueing.orders import Phase
from orchestrator.spec import TrainJob, load_text
from orchestrator.spec.errors import UserError

if TYPE_CHECKING:
    from orchestrator.adapters.ray_train.notice_desk import NoticePlan
    from orchestrator.adapters.ray_train.run import RunResult

TICK_S = 0.2
END_PATIENCE_S = 600.0


def main(path: Path) -> int:
    """Be the process of what the folder holds until that ends. Returns at once if it has one already."""
    folder = JobFolder(path)
    with contextlib.ExitStack() as stack:
        if not folder.live(stack):
            return 0
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        document, around = folder.read_job()
        match document.get("kind"):
            case "Endpoint":
                from orchestrator.adapters.endpoints.process import serve_endpoint

                serve_endpoint(folder, document, around, _log(folder, around, ranks=folder.path / "ranks"))
            case "Study":
                from orchestrator.adapters.jobs.study_process import run_as_study

                ranks = Path(around["home"]) / "studies" / folder.job / "logs"
                run_as_study(folder, document, around, _log(folder, around, ranks=ranks))
            case _:
                _run_as_job(folder, document, around)
    return 0


def _run_as_job(folder: JobFolder, document: dict[str, Any], around: dict[str, Any]) -> None:
    job = as_run(document, folder.job)
    desk = _desk(folder, job, around)
    aside = Aside(folder, Path(around["home"]) / "runs" / folder.job, desk.stage) if leaves_versions(job) else None
    desk.look()
    with contextlib.closing(_open_door(folder)) as door:
        ended = threading.Event()
        ticker = threading.Thread(target=_tick, args=(desk, aside, ended), name="desk", daemon=True)
        ticker.start()
        try:
            end = _run(job, desk, around, door, aside)
        finally:
            ended.set()
            ticker.join()
        say_the_end(lambda: desk.finish(end.phase, end.detail, final=end.final))
        do_afterwards(end.afterwards, desk.is_overtaken)


def say_the_end(say: Callable[[], None]) -> None:
    """Whoever cannot say it has trained for nothing: that is worth waiting for a disk."""
    deadline_s = time.monotonic() + END_PATIENCE_S
    while True:
        try:
            say()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(1.0)


def as_run(document: dict[str, Any], job_id: str) -> TrainJob:
    """The job under its own id: a later job of the same name must not go on from this one's state."""
    (job,) = load_text(json.dumps(document), where=job_id)
    assert isinstance(job, TrainJob), "only TrainJobs have a process"
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": job_id})})


def _desk(folder: JobFolder, job: TrainJob, around: dict[str, Any]) -> Desk:
    from orchestrator.adapters.ray_train.record_store import read_events
    from orchestrator.adapters.ray_train.run import HABITS

    workers, batch = job.spec.workers, job.spec.batch
    plan = plan_of(
        min_workers=workers.min,
        max_workers=workers.max,
        batch=BatchPlan(batch.global_batch_size, batch.micro_batch_size),
        habits=HABITS,
    )
    run_dir = Path(around["home"]) / "runs" / folder.job
    log, nights = _log(folder, around, ranks=run_dir / "logs"), Nights(run_dir).times
    ending = NO_ENDING if job.spec.window is None else nights.ending(registers=job.spec.register is not None)
    chronicle = Chronicle(folder.job, plan=plan, steps=job.spec.steps, habits=HABITS, ending=ending)
    try:
        chronicle.remember(read_events(run_dir, steps=False))
    except (OSError, ValueError):
        traceback.print_exc()  # the run reads all of it in a moment, and ends with what is wrong
    return Desk(folder, chronicle, log, time.time)


def _log(folder: JobFolder, around: dict[str, Any], *, ranks: Path) -> LogWriter:
    return LogWriter(Path(around["logs"]), folder.job, ranks, _stamp)


def _tick(desk: Desk, aside: Aside | None, ended: threading.Event) -> None:
    while not ended.wait(TICK_S):
        desk.look()
        if aside is not None:
            aside.look(desk.order, time.time())


def _open_door(folder: JobFolder) -> Door:
    """A job that nobody can look into trains all the same."""
    door = Door(folder.path)
    try:
        door.open()
    except OSError:
        traceback.print_exc()
    return door


def _run(job: TrainJob, desk: Desk, around: dict[str, Any], door: Door, aside: Aside | None) -> End:
    """Run the job to an end of any kind."""
    import ray

    from orchestrator.adapters.ray_cluster.loopback import for_ray_init
    from orchestrator.adapters.ray_train.events import Status

    try:
        with connected(for_ray_init(around["ray"])):
            result, home = _train(job, desk, around, door), Path(around["home"])
            if aside is not None:
                aside.close()
            if result.status is Status.PAUSED and (stop := desk.night_over) is not None:
                return end_of_night(job, result, home, stop, desk.stage)
            end = _outcome(job, result, home)
            if job.spec.window is not None and result.status is Status.SUCCEEDED:  # its last night
                desk.stage(Stage.REGISTER, StageReason.TRAINED, None, end.detail)
            return end
    except UserError as error:
        return End(phase=Phase.FAILED, detail=str(error), final=True)
    except (ray.exceptions.RayError, ConnectionError) as error:
        traceback.print_exc()
        return End(phase=Phase.LOST, detail=f"Ray was lost: {error}")
    except Exception as error:
        traceback.print_exc()
        return End(phase=Phase.FAILED, detail=f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def connected(address: str) -> Any:
    """Be a driver of the Ray cluster there, for as long as the context lasts."""
    import ray

    from orchestrator.adapters.ray_cluster.environment import loopback_environment
    from orchestrator.adapters.ray_cluster.messages import messages_to_log

    with loopback_environment(), messages_to_log():
        ray.init(address=address, namespace="tideline", log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()


def _train(job: TrainJob, desk: Desk, around: dict[str, Any], door: Door) -> RunResult:
    from orchestrator.adapters.ray_train.run import RunOptions, run_train_job
    from orchestrator.adapters.ray_train.signals import StopSignals

    nights = Nights(Path(around["home"]) / "runs" / job.metadata.name)
    if said := nights.take_afterwards():
        desk.stage(Stage.RELEASE, StageReason.IN_ORDER, None, said)
    if staged := nights.take_staged():
        desk.stage(Stage.STAGE_IN, StageReason.IN_ORDER, *staged)
    if job.spec.window is not None:
        desk.stage(Stage.TRAIN, StageReason.IN_ORDER, None, "")
    with StopSignals() as signals:
        options = RunOptions(
            wants_stop=lambda: max(signals(), desk.wants_stop()),
            read_lease=desk.lease,
            notices=notice_plan(around.get("notices")),
            on_inside=door.lead_to,
        )
        return run_train_job(job, Path(around["home"]), on_event=desk.observe, options=options)


def notice_plan(said: dict[str, Any] | None) -> NoticePlan:
    """What the Cluster says of notices, as nodes take it; None: each node listens to what its machine has."""
    from orchestrator.adapters.ray_train.notice_desk import NoticePlan

    return NoticePlan() if said is None else NoticePlan(**{**said, "sources": tuple(said["sources"])})


def _outcome(job: TrainJob, result: RunResult, home: Path) -> End:
    from orchestrator.adapters.ray_train.events import Status
    from orchestrator.adapters.ray_train.register import register

    match result.status:
        case Status.SUCCEEDED:
            version = register(job, result, home)
            return End(phase=Phase.SUCCEEDED, detail=f"registered as {version.ref}" if version else "", final=True)
        case Status.PAUSED:
            return End(phase=Phase.STOPPED, detail="stopped with its state saved")
        case _:
            return End(phase=Phase.FAILED, detail=result.detail, final=True)


def _stamp() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
