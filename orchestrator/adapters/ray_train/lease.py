"""How many workers a run may hold: a small file that `tide resize` writes and the run's driver reads.

The file is the lease's port where no control plane holds leases (one that does passes `RunOptions.read_lease`); a
reader sees the old or the new one, never half.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """`workers` pins the size; None lets it follow the capacity there is, within the job's min..max.

    `seats`: how many workers may sit on each node, as a control plane leased them; None = wherever there is room.
    `others_end_s`: when whoever sits elsewhere is killed (UTC seconds); None = nobody waits for those seats.
    """

    workers: int | None = None
    seats: Mapping[str, int] | None = None
    others_end_s: float | None = None


class FileLease:
    """A lease in `folder/lease.json`; no file means that the size follows capacity."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease.json"
        self._stamp: tuple[int, int] | None = None
        self._lease = Lease()

    def read(self) -> Lease:
        """The lease as it is now; reads the file only when it has changed. A file that is not a lease changes
        nothing: the run goes on under the last good one."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._lease = None, Lease()
            return self._lease
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            self._lease = _parse(self._path.read_text(encoding="utf-8")) or self._lease
        return self._lease

    def write(self, lease: Lease) -> None:
        """Replace the lease in one rename."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".lease.{os.getpid()}.json")
        temporary.write_text(json.dumps({"workers": lease.workers}), encoding="utf-8")
        temporary.replace(self._path)


def _parse(text: str) -> Lease | None:
    try:
        workers = json.loads(text)["workers"]
    except (ValueError, KeyError, TypeError):
        return None
    valid = workers is None or (isinstance(workers, int) and not isinstance(workers, bool) and workers > 0)
    return Lease(workers=workers) if valid else None
