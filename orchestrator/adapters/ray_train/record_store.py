"""A run's record on disk: `events.jsonl` grows by whole lines, `record.json` is replaced in one rename."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from orchestrator.adapters.ray_train.events import Event, StepDone, from_json, to_json
from orchestrator.adapters.ray_train.record import RunRecord

# Steps come many a second; rewriting the record for each would cost more than it tells.
REWRITE_EVERY_S = 2.0


class RecordStore:
    """Writes one run's events as they come. A crash leaves a readable log: a torn last line is cut off on opening."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "events.jsonl"
        self.record = RunRecord.of(run_id, load_events(folder))
        _cut_torn_line(self._path)
        self._log = self._path.open("a", encoding="utf-8")
        self._written_at = 0.0

    def append(self, event: Event) -> None:
        """Write one event and fold it into the record."""
        self._log.write(json.dumps(to_json(event), separators=(",", ":")) + "\n")
        self._log.flush()
        self.record.apply(event)
        if not isinstance(event, StepDone) or time.monotonic() - self._written_at > REWRITE_EVERY_S:
            self.write_record()

    def write_record(self) -> None:
        """Replace `record.json`; readers see the old or the new one, never half."""
        temporary = self._folder / f".record.{os.getpid()}.json"
        temporary.write_text(json.dumps(self.record.to_json(), indent=1), encoding="utf-8")
        temporary.replace(self._folder / "record.json")
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Write the last record and let go of the log."""
        if not self._log.closed:
            self.write_record()
            self._log.close()


def load_events(folder: Path) -> list[Event]:
    """Events of the run in `folder`, oldest first; a torn last line is left out. Empty when there is no log."""
    path = folder / "events.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [from_json(json.loads(line)) for line in lines[:-1] if line]


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as log:
            log.truncate(whole)
