"""The replica's pull: leases rows, has them computed, commits what comes of them, gives back what does not.

A thread with an event loop of its own, so that a store that waits for its disk keeps no request waiting. Everything it
holds can be lost at any moment: what is not committed is taken back when its lease runs out.
"""

from __future__ import annotations

import asyncio
import enum
import threading
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import DBAPIError

from serving.batch.rate import RateMeter
from serving.batch.records import LeasedRow, RowResult
from serving.batch.store import BatchStore

_log = structlog.get_logger(__name__)


class RowNotDoneError(Exception):
    """The replica cannot compute the row; another one may."""


class RowOutcome(enum.StrEnum):
    """What became of a leased row; `discarded` = its lease was lost, and the result did not count."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETURNED = "returned"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """`rows_at_once`: leased and running; twice the engine's slots keep it busy while results are written. While there
    are at least half of them, the replica is full and its rate is measured.

    `gather_s`: finished rows wait so long for others, because a commit costs a flush of the disk however many it holds.
    """

    rows_at_once: int
    poll_s: float = 1.0
    gather_s: float = 0.02
    heartbeat_s: float = 5.0


Compute = Callable[[LeasedRow], Awaitable[RowResult]]
Observe = Callable[[LeasedRow, RowOutcome], None]


class BatchRunner:
    """`start` and `drain` once each. `compute` raises RowNotDoneError for a row to be returned."""

    def __init__(
        self,
        store: BatchStore,
        compute: Compute,
        config: RunnerConfig,
        *,
        estimate_tokens_per_s: float = 0.0,
        observe: Observe = lambda row, outcome: None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self._store = store
        self._compute = compute
        self._config = config
        self._observe = observe
        self._meter = RateMeter(estimate_tokens_per_s)
        self._running: dict[asyncio.Task[RowResult], LeasedRow] = {}
        self._done: list[tuple[LeasedRow, RowResult]] = []
        self._unable = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="batch-runner", daemon=True)

    @property
    def tokens_per_s(self) -> float:
        """Measured while there was more work than it could hold; 0 while nothing is known."""
        return self._meter.tokens_per_s

    def start(self) -> None:
        """Begin to lease."""
        self._thread.start()
        self._ready.wait()

    def drain(self) -> None:
        """Lease no more, commit what is done, give back the rest; returns when no row is held."""
        if self._thread.is_alive() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._ready.set()
            runner.run(self._run())

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        beat_s, since_s = clock() - self._config.heartbeat_s, clock()
        while not self._stop.is_set():
            try:
                since_s = self._commit(since_s, clock())
                if clock() - beat_s >= self._config.heartbeat_s:
                    self._heartbeat()
                    beat_s = clock()
                self._lease()
            except DBAPIError as error:
                # Results are kept and tried again; leases may run out meanwhile, which costs time and nothing else.
                _log.warning("batch store unreachable", error=type(error).__name__)
                await self._pause(self._config.poll_s)
            await self._wait(until_s=beat_s + self._config.heartbeat_s - clock())
        await self._leave()

    def _lease(self) -> None:
        room = self._config.rows_at_once - len(self._running)
        if room > self._config.rows_at_once // 4 and not self._unable:  # a few at a time, not each by itself
            for row in self._store.leases.lease(room):
                self._running[asyncio.ensure_future(self._compute(row))] = row

    async def _wait(self, until_s: float) -> None:
        """Until a row is done, and a moment longer for its neighbours; without rows, until it is time to look again."""
        if not self._running:
            await self._pause(self._config.poll_s)
            return
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(
            {*self._running, stopping}, timeout=max(0.0, until_s), return_when=asyncio.FIRST_COMPLETED
        )  # fmt: skip
        stopping.cancel()
        await self._pause(self._config.gather_s)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    def _commit(self, since_s: float, now_s: float) -> float:
        """Write what has finished; returns since when tokens are to be counted next."""
        was_full = 2 * len(self._running) >= self._config.rows_at_once
        returned = self._take_finished()
        if not self._done and not returned:
            return since_s if self._running else now_s
        self._store.leases.give_back(returned)
        self._report(self._store.leases.commit(self._done))
        for row in returned:
            self._observe(row, RowOutcome.RETURNED)
        tokens = sum(row.tokens for row, _ in self._done)
        self._done.clear()
        self._meter.observe(tokens, now_s - since_s, was_full=was_full)
        return now_s

    def _take_finished(self) -> list[LeasedRow]:
        """Move results of finished tasks to `_done`; returns the rows that could not be computed."""
        returned = []
        for task in [task for task in self._running if task.done()]:
            row = self._running.pop(task)
            if task.cancelled():
                continue  # its lease was lost
            match task.exception():
                case None:
                    self._done.append((row, task.result()))
                case RowNotDoneError():
                    self._unable = True
                    returned.append(row)
                case error:
                    _log.error("unexpected error in a batch row", error=type(error).__name__)
                    self._done.append((row, _bug()))
        return returned

    def _report(self, counted: set[tuple[str, int]]) -> None:
        for row, result in self._done:
            outcome = RowOutcome.SUCCEEDED if result.succeeded else RowOutcome.FAILED
            self._observe(row, outcome if (row.batch_id, row.index) in counted else RowOutcome.DISCARDED)

    def _heartbeat(self) -> None:
        self._store.batches.end_overdue()
        lost = {(row.batch_id, row.index) for row in self._store.leases.renew(list(self._running.values()))}
        for task, row in self._running.items():
            if (row.batch_id, row.index) in lost and not task.done():
                task.cancel()  # frees its slot
                self._observe(row, RowOutcome.DISCARDED)
        self._store.leases.report_rate(self.id, 0.0 if self._unable else self.tokens_per_s)

    async def _leave(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        unfinished = [row for task, row in self._running.items() if task.cancelled()]
        try:
            unfinished += self._take_finished()
            self._report(self._store.leases.commit(self._done))
            self._store.leases.give_back(unfinished)
            self._store.leases.report_rate(self.id, 0.0)
        except DBAPIError as error:
            _log.warning("batch rows not returned; their leases run out", error=type(error).__name__)
            return
        for row in unfinished:
            self._observe(row, RowOutcome.RETURNED)


def _bug() -> RowResult:
    error = {"message": "an unexpected error; it has been logged", "type": "server_error", "param": None}
    return RowResult(status_code=500, body={"error": {**error, "code": "internal"}})
