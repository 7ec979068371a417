"""A run's record on disk: `events.jsonl` grows by whole lines, `record.json` is replaced in one rename.

Every step is a line of the log, with its loss; the record holds sums and the last loss only, so that replacing it every
few seconds costs the same after a million steps as after one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.adapters.ray_train.events import Event, StepDone, from_json, to_json
from orchestrator.adapters.ray_train.record import RunRecord

# Steps come many a second; rewriting the record for each would cost more than it tells.
REWRITE_EVERY_S = 2.0
_CHUNK_BYTES = 1 << 16
_STEP = b'{"kind":"StepDone",'


class RecordStore:
    """Writes one run's events as they come. A crash leaves a readable log: a torn last line is cut off on opening."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "events.jsonl"
        self.record = RunRecord.of(run_id, read_events(folder))
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
    return list(read_events(folder))


def read_events(folder: Path, *, steps: bool = True) -> Iterator[Event]:
    """As `load_events`, one at a time: a long run's log need not fit into memory. Without `steps`, nearly all of it is
    passed over unread."""
    path = folder / "events.jsonl"
    if not path.exists():
        return
    with path.open("rb") as log:
        for line in log:
            if line.endswith(b"\n") and line != b"\n" and (steps or not line.startswith(_STEP)):
                yield from_json(json.loads(line))


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as log:
        end = start = log.seek(0, os.SEEK_END)
        while start:  # backwards, because the log may be long and the torn line is at most one
            start = max(0, start - _CHUNK_BYTES)
            log.seek(start)
            newline = log.read(min(_CHUNK_BYTES, end - start)).rfind(b"\n")
            if newline >= 0:
                log.truncate(start + newline + 1)
                return
        log.truncate(0)
