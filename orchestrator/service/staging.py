"""A chore of the leader: data sets of jobs that wait for their night are close by before devices are taken for them.

Staging is what a run would do first itself (`ensure_dataset`: resolve, and pack what can be packed), done while nobody
holds a device, with the shards then asked into this machine's page cache. Until then the job waits (DataNotStaged).
With it goes what the end of the job's night will take, as its earlier nights say: no night begins without room for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from jobs.data import ensure_dataset
from jobs.train.readahead import read_ahead
from orchestrator.adapters.jobs.night import Nights
from orchestrator.ledger.repository import Ledger
from orchestrator.policy.lending.session import Ending
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)

AGAIN_S = 60.0
"""After a failure that may pass."""


def stage_in(ref: str, home: Path) -> int:
    """Have a data set close by; bytes that were asked into memory. Raises: UserError, OSError."""
    return read_ahead(ensure_dataset(ref, home))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job's file and its earlier nights say of the next one."""

    dataset: str
    ending: Ending


@dataclass(slots=True)
class Staging:
    """`stage` does the work of one data set, in a thread of its own: one after the other."""

    ledger: Ledger
    home: Path
    stage: Callable[[str, Path], int] = stage_in
    start: Callable[[Callable[[], None]], None] = lambda work: threading.Thread(target=work, daemon=True).start()
    clock: Callable[[], float] = time.monotonic
    _of: dict[str, Asked] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _retry_s: dict[str, float] = field(default_factory=dict)
    _working: bool = False

    def __call__(self, now_s: float) -> None:
        """Say who waits for data, and see to the first of them. Raises: what the ledger raises."""
        waiting = self.ledger.nightly()
        self._of = {job: self._of.get(job) or self._asked(job) for job in waiting}
        # Looked at anew every night: what has changed since is staged again.
        self._done &= set(waiting)
        missing = [job for job in waiting if job not in self._done]
        self.ledger.stage(frozenset(missing), {job: self._of[job].ending for job in waiting})
        due = next((job for job in missing if now_s >= self._retry_s.get(job, 0.0)), None)
        if due is not None and not self._working:
            self._working = True
            self.start(lambda: self._work(due, self._of[due].dataset, now_s))

    def _work(self, job: str, ref: str, now_s: float) -> None:
        began_s = self.clock()
        try:
            asked = self.stage(ref, self.home)
        except UserError as error:  # nobody can stage what there is not: the run says so where its owner looks
            log.warning("a data set cannot be staged; its job will say why", job=job, dataset=ref, error=str(error))
        except OSError as error:
            log.warning("a data set could not be staged; trying again", job=job, dataset=ref, error=str(error))
            self._retry_s[job] = now_s + AGAIN_S
            self._working = False
            return
        else:
            log.info("staged", job=job, dataset=ref, bytes=asked)
            self._keep(job, self.clock() - began_s, f"{ref}: {asked} bytes asked into memory, on no device")
        self._done.add(job)
        self._working = False

    def _keep(self, job: str, seconds: float, said: str) -> None:
        """For the job's own log, once it runs."""
        try:
            self._nights(job).keep_staged(seconds, said)
        except OSError as error:  # words only
            log.warning("what was staged could not be noted", job=job, error=str(error))

    def _nights(self, job: str) -> Nights:
        return Nights(self.home / "runs" / job)

    def _asked(self, job: str) -> Asked:
        spec = self.ledger.read.document(job)["spec"]
        ending = self._nights(job).times.ending(registers=spec.get("register") is not None)
        return Asked(dataset=str(spec["data"]["dataset"]), ending=ending)
