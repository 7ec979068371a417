"""The log of each ordered attempt: what happened, and what the ranks wrote, line by line into the archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.adapters.jobs.archive import FileLogArchive

if TYPE_CHECKING:
    from orchestrator.adapters.ray_train.events import Event

_MOST_BYTES = 1 << 20
STEP_LINE_S = 1.0


class LogWriter:
    """Writes to the log of `attempt`, the newest that was ordered. `ranks`: the folder of the ranks' own output, of
    which only what is written from now on is taken. `stamp` says what time it is."""

    def __init__(self, root: Path, job: str, ranks: Path, stamp: Callable[[], str]) -> None:
        self._archive = FileLogArchive(root)
        self._job = job
        self._ranks = ranks
        self._stamp = stamp
        self._read = {path: path.stat().st_size for path in self._files()}
        self._step_line_at_s = float("-inf")
        self.attempt = 1
        self._ended = 0

    def say(self, sentence: str) -> None:
        """A line of our own."""
        self._append(f"{self._stamp()} {sentence}\n".encode())

    def event(self, event: Event) -> None:
        """A line for an event that a reader wants to see."""
        from orchestrator.adapters.ray_train.events import StepDone

        if isinstance(event, StepDone):
            if event.at_s - self._step_line_at_s < STEP_LINE_S:
                return
            self._step_line_at_s = event.at_s
        if sentence := _sentence(event):
            self.say(sentence)

    def follow(self) -> None:
        """Take over what ranks have written since; a line is taken when it is whole."""
        for path in self._files():
            begin = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(_MOST_BYTES)
            whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == _MOST_BYTES else b"")
            if whole:
                self._read[path] = begin + len(whole)
                mark = f"[{path.stem}] ".encode()
                self._append(b"".join(mark + line for line in whole.splitlines(keepends=True)))

    def end(self, attempt: int) -> None:
        """Nothing more comes for this attempt."""
        if attempt > self._ended:
            if attempt >= self.attempt:
                self.follow()
            self._archive.end(self._job, attempt)
            self._ended = attempt

    def _append(self, data: bytes) -> None:
        if self.attempt > self._ended:
            self._archive.append(self._job, self.attempt, data)

    def _files(self) -> list[Path]:
        return sorted(self._ranks.glob("*.log")) if self._ranks.is_dir() else []


def _sentence(event: Event) -> str:
    from orchestrator.adapters.ray_train import events as e

    match event:
        case e.AttemptOpened():
            return f"group {event.attempt}: {event.world_size} workers from step {event.start_step} ({event.cause})"
        case e.StepDone():
            return f"step {event.step}: loss {event.loss:.4f}, {event.world_size} workers, {event.step_s:.2f} s"
        case e.CheckpointSaved():
            return f"checkpoint of step {event.step} in {event.path}"
        case e.StopAsked():
            return f"the group is asked to stop ({event.cause}) {event.detail}".rstrip()
        case e.AttemptClosed():
            return f"group {event.attempt} {event.outcome} at step {event.step} {event.detail}".rstrip()
        case e.Noticed():
            return f"node {event.node_id[:12]} will go {event.detail}".rstrip()
        case e.Remark():
            return event.detail
        case e.Straggler():
            node, much = event.node_id[:12], f"{event.ratio:.1f}x"
            if event.over:
                return f"rank {event.rank} on node {node} is as fast as the others again ({much} the median)"
            return (
                f"rank {event.rank} on node {node} is {much} slower than the median over the last {event.steps} steps"
            )
        case e.WorkerDied():
            return f"on node {event.node_id[:12]}: {event.detail}"
        case e.StacksTaken():
            return f"stacks of {event.num_ranks} ranks in {event.path} {event.detail}".rstrip()
        case e.StatusChanged():
            return f"{event.status}: {event.detail}" if event.detail else str(event.status)
        case _:
            return ""
