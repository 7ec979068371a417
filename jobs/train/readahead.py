"""Bring a data set's shards into a node's page cache before ranks read from them at random.

Only asks the kernel, which reads beside everything else and gives the pages away again when somebody needs the memory.
What is not there when a rank wants it is read then. Imports nothing: a node's agent is a light process.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SHARDS = "*.shard"
# Of the memory that is free now: keepers' snapshots and ranks will want the rest.
MEMORY_SHARE = 0.25


def read_ahead(dataset_dir: Path, limit_bytes: int | None = None) -> int:
    """Ask for the shards up to `limit_bytes` in all (None: a share of what is free); how many bytes were asked for.

    What is missing, shard or data set, is for the rank to report.
    """
    left = int(available_bytes() * MEMORY_SHARE) if limit_bytes is None else limit_bytes
    asked = 0
    for path in sorted(dataset_dir.glob(SHARDS)):
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
            nbytes = min(os.fstat(file.fileno()).st_size, left - asked)
            if nbytes > 0:
                os.posix_fadvise(file.fileno(), 0, nbytes, os.POSIX_FADV_WILLNEED)
                asked += nbytes
    return asked


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that could be used without swapping, by the kernel's own estimate."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024
