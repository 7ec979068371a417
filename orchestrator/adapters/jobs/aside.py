"""A version of a job that trains on: what it had learnt when the devices that were lent to it had gone back.

A recall that only shrinks a job ends a loan and not the run. When nothing more was called back for a while, and nothing
lent again, or when that has not come about for an hour because devices come and go, the newest state on storage is
exported, evaluated and registered: in a process of its own on the processor of this machine, with one thread and the
lowest priority, and on no device. It ends with the job's process, and with the job's next stop, which evaluates for
itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchestrator.adapters.files import read_json, write_json
from orchestrator.adapters.jobs.folder import JobFolder
from orchestrator.adapters.jobs.letters import Letter
from orchestrator.adapters.jobs.night import AFTERWARDS_S, Say
from orchestrator.policy.lending.session import Stage, StageReason
from orchestrator.spec import TrainJob

QUIET_S = 900.0
"""After the last recall: a morning takes devices back in pieces, minutes apart."""
LONGEST_S = 3600.0
"""After the first recall that has left no version: where loans are renewed all night, their end may never come."""
_FILE = "aside.json"
_FOLDER = "aside"
_PR_SET_PDEATHSIG = 1


def leaves_versions(job: TrainJob) -> bool:
    """Whether the ends of its loans are to leave versions. A job with a window has nights, and leaves its own."""
    return job.spec.register is not None and job.spec.window is None


class LoanEnd:
    """When a job has given back what was lent to it and trains on, at once or bit by bit. Feed it with every order."""

    def __init__(self, quiet_s: float = QUIET_S, longest_s: float = LONGEST_S) -> None:
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._order: Letter | None = None
        self._quiet_at_s: float | None = None
        self._latest_s: float | None = None

    def is_due(self, order: Letter | None, now_s: float) -> bool:
        """Whether its version should be made now; once for each end of a loan, and once an hour while it is renewed."""
        if order is not None and order != self._order:
            self._take(order)
            self._order = order
        due_s = min((at_s for at_s in (self._quiet_at_s, self._latest_s) if at_s is not None), default=None)
        if due_s is None or now_s < due_s:
            return False
        self._quiet_at_s = self._latest_s = None
        return True

    def _take(self, order: Letter) -> None:
        before = self._order
        if order.stop:
            self._quiet_at_s = self._latest_s = None
        elif order.until_s is not None:  # seats that are called back
            self._quiet_at_s = order.at_s + self._quiet_s
            self._latest_s = order.at_s + self._longest_s if self._latest_s is None else self._latest_s
        elif before is not None and order.workers > before.workers:
            self._quiet_at_s = None


class Child(Protocol):
    """What is needed of the process."""

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


class Aside:
    """Beside one job's process: one such process at a time. Safe from any thread; nothing of it ends the job."""

    def __init__(
        self,
        folder: JobFolder,
        run_dir: Path,
        say: Say,
        *,
        start: Callable[[JobFolder], Child] | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._folder = folder
        self._run_dir = run_dir
        self._say = say
        self._start = start or start_child
        self._loan = LoanEnd(quiet_s)
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._began_s = 0.0
        self._closed = False

    def look(self, order: Letter | None, now_s: float) -> None:
        """Begin when it is time, and tell what came of it."""
        with self._lock:
            if self._child is not None:
                if now_s - self._began_s > AFTERWARDS_S:
                    self._child.kill()
                if self._child.poll() is not None:
                    self._tell(now_s)
            due = self._loan.is_due(order, now_s)
            if due and self._child is None and not self._closed:
                self._begin(now_s)

    def close(self) -> None:
        """The run is over, or stops: what is not registered by now is its end's to do."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()
                self._child.wait()
                self._child = None

    def _begin(self, now_s: float) -> None:
        (self._run_dir / _FILE).unlink(missing_ok=True)
        try:
            self._child = self._start(self._folder)
        except OSError as error:
            self._say(Stage.EVALUATE, StageReason.IN_ORDER, None, f"not begun: {error}")
            return
        self._began_s = now_s
        self._say(Stage.EVALUATE, StageReason.IN_ORDER, None, "the devices that were lent are back; training goes on")

    def _tell(self, now_s: float) -> None:
        assert self._child is not None, "asked only when it has ended"
        code, self._child = self._child.wait(), None
        kept = read_json(self._run_dir / _FILE)
        said = str(kept["said"]) if kept else f"not evaluated: its process ended with {code}; see {self._folder.output}"
        self._say(Stage.REGISTER, StageReason.IN_ORDER, now_s - self._began_s, said)


def start_child(folder: JobFolder) -> Child:
    """The process; no device is in its sight."""
    command = [sys.executable, "-m", "orchestrator.adapters.jobs.aside", str(folder.path), str(os.getpid())]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    with folder.output.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)


def main(path: Path, parent: int) -> int:
    """Make one version and keep what is to be said of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1  # it has ended meanwhile, and nothing would end this process
    os.nice(19)
    import torch

    from orchestrator.adapters.jobs.process import as_run

    torch.set_num_threads(1)
    folder = JobFolder(path)
    document, around = folder.read_job()
    home = Path(around["home"])
    try:
        said = _make(as_run(document, folder.job), home)
    except Exception as error:  # whatever it was, it costs a version, and the job goes on
        traceback.print_exc()
        said = f"not registered: {type(error).__name__}: {error}"
    write_json(home / "runs" / folder.job / _FILE, {"said": said})
    return 0


def _make(job: TrainJob, home: Path) -> str:
    from jobs.train.state.checkpoints import latest
    from jobs.train.state.open_storage import open_storage
    from orchestrator.adapters.jobs.ending import steps_of
    from orchestrator.adapters.ray_train.events import Status
    from orchestrator.adapters.ray_train.prepare import prepare
    from orchestrator.adapters.ray_train.run import RunResult

    run = job.metadata.name
    prepared, folder = prepare(job, home, run_id=run), home / "runs" / run / _FOLDER
    newest = latest(open_storage(prepared.storage_url), run)
    if newest is None:
        return "not registered: nothing is on storage yet"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        result = RunResult(
            run_id=run,
            status=Status.RUNNING,
            detail="",
            steps=newest.step,
            loss=None,
            checkpoint_step=newest.step,
            run_dir=folder,
            dataset_hash=prepared.dataset_hash,
        )
        steps = steps_of(job, result, home)
        return f"{steps.evaluate()}; {steps.register()}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
