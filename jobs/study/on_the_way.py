"""A trial's states between two reports: saved as often as that costs little, and only the newest one kept.

A trial has no keepers: its node takes along what was done since the last state on storage. Rungs are far apart, so the
trial also saves on the way, as often as that takes a twentieth of its time at most. The states of reports stay, for
others may take them over; they are the driver's to prune.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

from jobs.train.saving import SnapshotSink
from jobs.train.state.checkpoints import drop, steps
from jobs.train.state.errors import StorageError
from jobs.train.state.manifest import Manifest, Part
from jobs.train.state.storage import Storage

SHARE = 0.05
"""Of a trial's time, at most, in which a state is on its way to storage: beside the steps, most of it."""
UNMEASURED_S = 0.05


class OnTheWay:
    """Of one rank. `reports`: steps whose states stay. The sink's methods are called as those of the one it goes to."""

    def __init__(
        self,
        run: str,
        storage: Storage,
        reports: frozenset[int],
        rank: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._storage, self._reports, self._rank = run, storage, reports, rank
        self._clock = clock
        self._sink: SnapshotSink | None = None
        self._passing: list[int] = []
        self._began_s = 0.0
        self._took_s = UNMEASURED_S

    def through(self, sink: SnapshotSink) -> OnTheWay:
        """Save there. What earlier attempts have left on the way goes with the next state."""
        self._sink = sink
        if self._rank == 0:
            self._passing = [step for step in steps(self._storage, self._run) if step not in self._reports]
        return self

    def every_s(self, most_s: float) -> float:
        """How long to train between two states: as the last one took, and `most_s` at most; 0 = there is no clock."""
        return min(most_s, self._took_s / SHARE)

    def open(self, step: int, nbytes: int, *, final: bool) -> memoryview:
        """As `SnapshotSink`."""
        assert self._sink is not None
        self._began_s = self._clock()
        return self._sink.open(step, nbytes, final=final)

    def seal(self, part: Part, manifest: Manifest) -> None:
        """As `SnapshotSink`; older states on the way are nobody's any more. Raises: StateError."""
        assert self._sink is not None
        self._sink.seal(part, manifest)
        if self._rank == 0:
            self._drop_older()
            if manifest.step not in self._reports:
                self._passing.append(manifest.step)
        self._took_s = self._clock() - self._began_s

    def _drop_older(self) -> None:
        try:
            while self._passing:
                drop(self._storage, self._run, self._passing[0])
                del self._passing[0]
        except StorageError:  # the new state is safe all the same; what is left goes with the next one, or at a report
            traceback.print_exc()
