"""How a job's process ends: what is told of it, and what it still does once nobody waits for its devices."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.night import AFTERWARDS_S, Nights, Say, Steps, end_night
from orchestrator.policy.queueing.orders import Phase
from orchestrator.spec import TrainJob
from orchestrator.spec.errors import UserError

if TYPE_CHECKING:
    from orchestrator.adapters.ray_train.run import RunResult

LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ended: in which words, and whether trying again would help nothing. `afterwards`: what is still to be
    done once its devices are free, on none of them."""

    phase: Phase
    detail: str = ""
    final: bool = False
    afterwards: Callable[[], object] = lambda: None


def do_afterwards(work: Callable[[], object], is_overtaken: Callable[[], bool]) -> None:
    """What waits for no device must not let one wait: when the job is ordered again, its next process comes first."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_S):
            if is_overtaken():
                os._exit(0)  # as a kill would: what is not registered by now is left to another night

    watcher = threading.Thread(target=watch, name="overtaken", daemon=True)
    watcher.start()
    try:
        work()
    except Exception:  # it costs a version, and not the job
        traceback.print_exc()
    finally:
        done.set()
        watcher.join()


def end_of_night(job: TrainJob, result: RunResult, home: Path, stop: Letter, say: Say) -> End:
    """Evaluate and register what was trained by now, as far as the night still lasts; the run goes on another night.

    Neither needs a device: where somebody waits for the devices, they are let go first.
    """
    nights, steps = Nights(result.run_dir), steps_of(job, result, home)
    saved = result.checkpoint_step is not None and result.checkpoint_step == result.steps
    registers = job.spec.register is not None

    def end(until_s: float, told: Say) -> str:
        return end_night(
            nights,
            steps,
            asked_s=stop.at_s,
            until_s=until_s,
            saved=saved,
            registers=registers,
            now_s=time.time,
            say=told,
        )

    if not stop.called_back:
        until_s = time.time() if stop.until_s is None else stop.until_s
        return End(phase=Phase.STOPPED, detail=end(until_s, say))
    if not saved:
        return End(
            phase=Phase.STOPPED, detail=f"stopped; the newest saved state is that of step {result.checkpoint_step}"
        )
    if not registers:
        return End(phase=Phase.STOPPED, detail="stopped with its state saved")

    def afterwards() -> None:
        nights.keep_afterwards(end(time.time() + AFTERWARDS_S, lambda *said: None))

    detail = "its devices are called back; evaluated and registered once they are free"
    return End(phase=Phase.STOPPED, detail=detail, afterwards=afterwards)


def steps_of(job: TrainJob, result: RunResult, home: Path) -> Steps:
    """What is done with the model of the newest state on storage."""
    from orchestrator.adapters.ray_train.midway import evaluated
    from orchestrator.adapters.ray_train.register import register

    latest = [result]

    def evaluate() -> str:
        latest[0] = evaluated(job, result, home)
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in sorted(latest[0].metrics.items()))
        return f"evaluated at step {latest[0].steps}: {metrics or 'no metrics'}"

    def enter() -> str:
        try:
            version = register(job, latest[0], home)
        except UserError as error:  # a gate that is not reached yet ends no job: there are other nights
            return f"not registered: {error}"
        return f"registered as {version.ref}" if version else "nothing to register"

    return Steps(evaluate=evaluate, register=enter)
