"""Durable submissions a second: each is one row of a job, its document and its event, on the disk before the answer.

To the ledger itself, and (`http_...`) over HTTP to a real server, with validation and the checks at submission.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.rows import JobShape
from orchestrator.ledger.schema import upgrade
from orchestrator.ledger.submission import NewJob
from tests.benchmarks.control_http import http_submits

_SHAPE = JobShape(sizes=(1, 2, 4, 8), work_s=600.0)
_DOCUMENT = '{"apiVersion":"tideline/v1","kind":"TrainJob","metadata":{"name":"x"},"spec":{}}' + " " * 1000
_THREADS = 16


def submits(folder: Path, *, quick: bool) -> dict[str, object]:
    """Submissions a second: one by one, from 16 threads that share commits, and in requests of 100 and 1,000."""
    count = 200 if quick else 4000
    ledger = Ledger(f"sqlite:///{folder / 'submits.db'}", holder="bench", clock=time.time)
    upgrade(ledger.database)
    ledger.lead()
    found = {"single_one_thread": _rate(count, lambda: _alone(ledger, count))}
    found[f"single_threads_{_THREADS}"] = _rate(count, lambda: _together(ledger, count))
    for size in (100, 1000):
        found[f"batches_of_{size}"] = _rate(count * 2, lambda size=size: _batches(ledger, count * 2, size))
    ledger.close()
    over_http = {f"http_{name}": rate for name, rate in http_submits(folder, quick=quick).items()}
    return {name: round(rate, 1) for name, rate in found.items()} | over_http


def _rate(count: int, work) -> float:
    began_s = time.perf_counter()
    work()
    return count / (time.perf_counter() - began_s)


def _alone(ledger: Ledger, count: int) -> None:
    for at in range(count):
        ledger.submit(_job(f"alone-{at}"))


def _together(ledger: Ledger, count: int) -> None:
    def share(thread: int) -> None:
        for at in range(thread, count, _THREADS):
            ledger.submit(_job(f"together-{at}"))

    threads = [threading.Thread(target=share, args=(thread,)) for thread in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _batches(ledger: Ledger, count: int, size: int) -> None:
    for start in range(0, count, size):
        ledger.submit(*(_job(f"batch{size}-{at}") for at in range(start, min(count, start + size))))


def _job(name: str) -> NewJob:
    return NewJob(name=name, shape=_SHAPE, document=_DOCUMENT)
