"""A keeper in a process of its own, to be killed: `python -m tests.train.keeper.live_keeper FOLDER`.

Prints "ready" once ranks can connect; a byte on stdin (or its end) stops it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.train.keeper.keeper import Keeper, KeeperConfig
from jobs.train.keeper.mirror import Retry
from jobs.train.keeper.transport import LocalNetwork
from jobs.train.keeper.values import AttemptPlan

LIMIT_BYTES = 64 * 2**20


def config(folder: Path, node: str = "n") -> KeeperConfig:
    return KeeperConfig(
        node=node,
        folder=folder,
        limit_bytes=LIMIT_BYTES,
        mirror_streams=2,
        mirror_max_bytes_per_s=0.0,
        retry=Retry(first_s=0.05, most_s=0.5),
        flush_timeout_s=20.0,
        flush_retry_s=0.1,
    )


def main() -> None:
    keeper = Keeper(config(Path(sys.argv[1])), LocalNetwork(), lambda url: None)
    keeper.start()
    keeper.begin_attempt(AttemptPlan(run="run", attempt=0, world_size=1, nodes=("n",), lead="n", mirrors={}))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read(1)
    keeper.close()


if __name__ == "__main__":
    main()
