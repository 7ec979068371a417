"""Tells streams that something has happened, so that each reads its own part: one look for all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

LOOK_EVERY_S = 0.5
"""What another process wrote is seen after so long at the latest."""
_log = structlog.get_logger(__name__)


class Hub:
    """`last_event` reads the number of the newest event."""

    def __init__(self, last_event: Callable[[], Awaitable[int]]) -> None:
        self._last_event = last_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._news = asyncio.Condition()
        self._count = 0
        self._listening = 0
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.stopping = False

    def start(self) -> None:
        """Begin, in a running event loop; again after `stop`, also in another one."""
        self._loop = asyncio.get_running_loop()
        self._wake, self._news, self.stopping = asyncio.Event(), asyncio.Condition(), False
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End all streams."""
        self.stopping = True
        await self._tell()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def stop_streams(self) -> None:
        """Let all streams end; in the event loop."""
        self.stopping = True
        self._ending = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def wake(self) -> None:
        """Look now; from any thread."""
        if self._listening and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    @property
    def count(self) -> int:
        """Rises with every news."""
        return self._count

    async def changed(self, count: int, *, timeout_s: float) -> bool:
        """Wait until there is news after `count`; False after `timeout_s` without, or when everything stops."""
        self._listening += 1
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: self._count != count or self.stopping)
            return not self.stopping
        except TimeoutError:
            return False
        finally:
            self._listening -= 1

    async def _run(self) -> None:
        seen = -1
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            if not self._listening:
                continue
            try:
                last = await self._last_event()
            except Exception as error:  # streams wait on; the next look may succeed
                _log.warning("could not look for events", error=type(error).__name__)
                continue
            if last != seen:
                seen = last
                async with self._news:
                    self._count += 1
                    self._news.notify_all()
