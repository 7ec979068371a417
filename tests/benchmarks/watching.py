"""A run of some system on a cluster of this machine, watched from outside through the steps it writes down."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.adapters.ray_cluster import LocalCluster, NodeSize
from tests.benchmarks.resident import PageCacheFiller
from tests.benchmarks.systems import Steps, System, Workload, running

PATIENCE_S = 240.0


def packed_dataset() -> Path:
    """The folder of the standard library's sources, packed once for all benchmarks."""
    from jobs.data import ensure_dataset

    home = Path(tempfile.gettempdir()) / "tide-benchmark-data"
    home.mkdir(exist_ok=True)
    return ensure_dataset("python-stdlib@latest", home)


class Watch:
    """One run of one system on one cluster, as seen from outside."""

    def __init__(
        self, system: System, process: Any, workdir: Path, patience_s: float, filler: PageCacheFiller | None
    ) -> None:
        self.system = system
        self._process = process
        self._workdir = workdir
        self._patience_s = patience_s
        self._filler = filler

    def steps(self) -> Steps:
        return self.system.steps(self._workdir)

    def span_s(self, world_size: int) -> float:
        """Seconds from the first to the newest step at this size."""
        at_size = [line["at_s"] for line in self.steps() if line["world_size"] == world_size]
        return at_size[-1] - at_size[0] if at_size else 0.0

    def wait_steady(self, world_size: int) -> None:
        """Until the newest steps were all made at this size."""
        self.wait(
            lambda: [line["world_size"] for line in self.steps()[-5:]] == [world_size] * 5, f"steps at {world_size}"
        )

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Raises: RuntimeError if the run ends first, TimeoutError if it takes too long."""
        deadline = time.monotonic() + self._patience_s
        while not holds():
            if self._process.poll() is not None:
                output = (self._workdir / "output.txt").read_text()[-2000:]
                raise RuntimeError(f"{self.system.name}: the run ended before {what}:\n{output}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.system.name}: after {self._patience_s:.0f} s still not: {what}")
            self.pause(0.2)

    def fill_memory(self) -> None:
        """Fill what ended processes left free, so that the next ones do not wait for the machine's host."""
        if self._filler:
            self._filler.fill()

    @staticmethod
    def pause(seconds: float) -> None:
        """Let the run go on."""
        time.sleep(seconds)


@contextmanager
def watched(
    system: System,
    workload: Workload,
    data: Path,
    sizes: tuple[NodeSize, ...],
    *,
    patience_s: float = PATIENCE_S,
    filler: PageCacheFiller | None = None,
) -> Iterator[tuple[Watch, LocalCluster, Path]]:
    """A fresh cluster with the system training on it, after free memory was filled if there is a filler."""
    if filler:
        filler.fill()
    with tempfile.TemporaryDirectory(prefix="tide-elastic-", ignore_cleanup_errors=True) as folder:
        workdir = Path(folder) / "work"
        with LocalCluster(sizes) as cluster, running(system, workload, workdir, cluster.address, data) as process:
            yield Watch(system, process, workdir, patience_s, filler), cluster, workdir
