"""The folder of one job's process: its order, its reports, who it is, and the lock that says whether it lives."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.adapters.files import hold_lock, is_held, read_json, write_json
from orchestrator.adapters.jobs.letters import Letter, report_from_json, report_to_json
from orchestrator.policy.queueing.orders import Report

BEGUN = "begun.json"
"""There as long as a process has begun something that outlives it, and nobody has taken it down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """A process that was started: `created_s` tells it from a later one of the same number. `attempt` is the one it was
    started for, and `tries` how often that has been tried."""

    pid: int
    created_s: float
    attempt: int
    tries: int

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < 1.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        """End it at once, and nobody else that has its number by now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created_s) < 1.0:
                process.kill()


class JobFolder:
    """The files of one job. Both sides use this class; each file has one writer while the job's process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def job(self) -> str:
        """The job's id."""
        return self.path.name

    @property
    def output(self) -> Path:
        """What the process itself says on stdout and stderr."""
        return self.path / "output"

    # --- The control plane writes -----------------------------------------------------------------------------------

    def write_job(self, document: Mapping[str, Any], surroundings: Mapping[str, Any]) -> None:
        """What the process runs (a TrainJob's document), and where."""
        write_json(self.path / "job.json", {"document": document, "surroundings": surroundings})

    def read_job(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The document and the surroundings."""
        both = read_json(self.path / "job.json")
        return both["document"], both["surroundings"]

    @property
    def kind(self) -> str:
        """What kind of thing the process runs; empty as long as nobody has said."""
        both = read_json(self.path / "job.json")
        return "" if both is None else str(both["document"].get("kind", ""))

    def write_order(self, letter: Letter) -> None:
        """Replace the order that holds."""
        write_json(self.path / "order.json", letter.to_json())

    def read_order(self) -> Letter | None:
        """The order that holds."""
        data = read_json(self.path / "order.json")
        return None if data is None else Letter.from_json(data)

    def order_stamp(self) -> tuple[int, int] | None:
        """Changes when the order does."""
        return _stamp(self.path / "order.json")

    def job_stamp(self) -> tuple[int, int] | None:
        """Changes when what the process runs, or where, is written again."""
        return _stamp(self.path / "job.json")

    def write_birth(self, birth: Birth) -> None:
        """Who was started."""
        values = {"pid": birth.pid, "created_s": birth.created_s, "attempt": birth.attempt, "tries": birth.tries}
        write_json(self.path / "birth.json", values)

    def read_birth(self) -> Birth | None:
        """Who was started last."""
        data = read_json(self.path / "birth.json")
        return None if data is None else Birth(**data)

    # --- The job's process writes -----------------------------------------------------------------------------------

    def live(self, stack: contextlib.ExitStack) -> bool:
        """Be the job's process until `stack` closes; False if there is one already."""
        if not hold_lock(self.path / "lock", stack):
            return False
        me = psutil.Process()
        write_json(self.path / "holder.json", {"pid": me.pid, "created_s": me.create_time(), "attempt": 0, "tries": 0})
        return True

    def kill(self) -> None:
        """End the job's process at once, and nobody else."""
        data = read_json(self.path / "holder.json")
        for one in (None if data is None else Birth(**data), self.read_birth()):
            if one is not None:
                one.kill()

    @property
    def is_alive(self) -> bool:
        """Whether the job's process lives, or was started a moment ago."""
        if is_held(self.path / "lock"):
            return True
        birth = self.read_birth()
        return birth is not None and birth.is_alive

    @property
    def leaves_something(self) -> bool:
        """Whether something goes on, or may, though the process has ended."""
        return (self.path / BEGUN).exists()

    def leave_nothing(self) -> None:
        """It was taken down."""
        (self.path / BEGUN).unlink(missing_ok=True)

    def write_report(self, report: Report) -> None:
        """Say how an attempt is; an end is said once and stays."""
        write_json(self._report(report.attempt), report_to_json(report))

    def read_reports(self) -> tuple[Report, ...]:
        """Reports of all attempts whose ends were not acknowledged, oldest first."""
        found = sorted((self.path / "reports").glob("[0-9]*.json"))
        datas = [read_json(path) for path in found]
        return tuple(report_from_json(data) for data in datas if data is not None)

    def reported_s(self, attempt: int) -> float:
        """When this attempt's report was written (UTC seconds)."""
        return self._report(attempt).stat().st_mtime

    def drop_report(self, attempt: int) -> None:
        """Its end is in the books."""
        self._report(attempt).unlink(missing_ok=True)

    def _report(self, attempt: int) -> Path:
        return self.path / "reports" / f"{attempt:06d}.json"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
