"""Two processes on one SQLite file: what one has committed, no other takes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ledger.world import World, new, sqlite

READ = """
import sys
from orchestrator.ledger.repository import Ledger
ledger = Ledger(sys.argv[1], holder="reader", clock=lambda: 0.0)
print(len(ledger.read.jobs()))
ledger.close()
"""


def test_a_reader_that_leaves_does_not_take_the_log_of_the_writer_with_it(tmp_path: Path) -> None:
    """The last connection of a process that leaves removes the write-ahead log unless another process holds the file:
    the writer must hold it, also after it has opened further connections."""
    url = sqlite(tmp_path)
    world = World(url)
    world.ledger.submit(new("a"))
    assert world.ledger.read.jobs()  # a second connection of this process
    seen = []
    for name in ("b", "c"):
        command = [sys.executable, "-c", READ, url]
        seen.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        world.ledger.submit(new(name))
    world.ledger.database.close()
    again = World(url, is_new=False)
    assert seen == ["1", "2"]
    assert [row.id for row in again.ledger.read.jobs()] == ["a", "b", "c"]
    again.ledger.database.close()
