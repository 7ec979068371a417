"""Tells others over HTTP that jobs have ended: a thread of its own, so that no cycle ever waits for somebody's server.

What is to be told is in the ledger and stays there until it was answered with 2xx, or given up after `RETRY_S`. Whoever
is killed between an answer and its entry is heard twice, under the same id.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from orchestrator.adapters.hooks.calling import TIMEOUT_S, Answer, call
from orchestrator.adapters.hooks.signing import headers_of, read_secret
from orchestrator.adapters.secret_files import SecretError
from orchestrator.ledger.errors import NotLeadingError
from orchestrator.ledger.notices import Tried
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import NoticeRow
from orchestrator.ports import FencedError, UnreachableError

log = structlog.get_logger(__name__)

RETRY_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0)
"""From each try to the next; after the last of them it is given up: two days after the first."""
GONE = 410
"""Who answers this wants to hear no more."""
_AT_ONCE = 16
_AT_ONE_HOST = 2


@dataclass(slots=True)
class Herald:
    """`secrets`: the folder of secrets. `hosts`: the names that jobs may call now. `tls`: whom to trust."""

    ledger: Ledger
    secrets: Path
    now_s: Callable[[], float]
    hosts: Callable[[], Sequence[str]] = tuple
    tls: ssl.SSLContext | None = None
    every_s: float = 1.0
    timeout_s: float = TIMEOUT_S
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _under_way: dict[str, str] = field(default_factory=dict)
    _trouble: str = ""

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="herald", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End; what is under way is told again by whoever comes next."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            for notice in self._due():
                task = asyncio.create_task(self._tell(notice))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(self.every_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def round(self) -> int:
        """Tell everything that is due now, once; how many were told."""
        due = self._due()
        await asyncio.gather(*(self._tell(notice) for notice in due))
        return len(due)

    def _due(self) -> list[NoticeRow]:
        """What to begin with now; it counts as under way. One slow host holds up nobody else's messages."""
        found: list[NoticeRow] = []
        try:
            if self.ledger.leads:
                while self.ledger.gather_notices():
                    pass
                found = self._chosen(self.ledger.read.due_notices(now_s=self.now_s(), most_each=2 * _AT_ONE_HOST))
            self._trouble = ""
        except (NotLeadingError, FencedError):
            pass  # somebody else tells
        except UnreachableError as error:
            self._complain("ends of jobs are not told now", error)
        except Exception as error:
            self._complain("ends of jobs are not told", error)
        self._under_way |= {one.id: _host(one) for one in found}
        return found

    def _chosen(self, due: Sequence[NoticeRow]) -> list[NoticeRow]:
        busy, chosen = Counter(self._under_way.values()), list[NoticeRow]()
        for notice in due:
            room = busy.total() < _AT_ONCE and busy[_host(notice)] < _AT_ONE_HOST
            if room and notice.id not in self._under_way:
                busy[_host(notice)] += 1
                chosen.append(notice)
        return chosen

    async def _tell(self, notice: NoticeRow) -> None:
        try:
            try:
                answer = await self._sent(notice)
            except Exception as error:
                # A mistake of ours must not be tried again every second: it counts as a try.
                log.error("a call failed", notice=notice.id, exc_info=True)
                answer = Answer(status=None, said=f"not sent: {type(error).__name__}")
            self.ledger.notices_tried([self._judged(notice, answer)])
        except Exception as error:
            # It stands as not told: whoever leads next says it again.
            self._complain("what was told could not be entered", error)
        finally:
            self._under_way.pop(notice.id, None)

    async def _sent(self, notice: NoticeRow) -> Answer:
        body = notice.body.encode()
        try:
            secret = None if notice.secret is None else read_secret(self.secrets, notice.secret)
        except SecretError as error:
            return Answer(status=None, said=str(error))
        headers = headers_of(notice.id, body, now_s=self.now_s(), secret=secret)
        hosts = self.hosts() if notice.is_own else ()
        return await call(notice.url, body, headers, hosts=hosts, tls=self.tls, timeout_s=self.timeout_s)

    def _judged(self, notice: NoticeRow, answer: Answer) -> Tried:
        log.info("told", notice=notice.id, host=_host(notice), tried=notice.tries + 1, said=answer.said)
        if answer.is_delivered or answer.status == GONE or notice.tries >= len(RETRY_S):
            return Tried(notice=notice, said=answer.said, delivered=answer.is_delivered)
        again_ms = round((self.now_s() + RETRY_S[notice.tries]) * 1000)
        return Tried(notice=notice, said=answer.said, delivered=False, again_ms=again_ms)

    def _complain(self, what: str, error: Exception) -> None:
        sentence = f"{type(error).__name__}: {error}"
        if sentence != self._trouble:
            self._trouble = sentence
            log.error(what, error=sentence)


def _host(notice: NoticeRow) -> str:
    """Of an address only this is said: the rest of it may be somebody's secret."""
    return urlsplit(notice.url).netloc
