"""What is removed after its time of keeping: events, decisions, idempotency keys, the logs of attempts that
ended, and the code of jobs that nobody runs any more.

A chore of the leader. Jobs, attempts, leases and the books themselves are kept for good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import structlog

from jobs.code.store import CodeStore
from orchestrator.ledger.repository import Ledger
from orchestrator.service.logs import FileLogArchive
from orchestrator.spec.job_parts import CODE_PREFIX

EVERY_S = 600.0
CODE_EVERY_S = 86_400.0
_NAMED = re.compile(CODE_PREFIX + "([0-9a-f]{64})")
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Retention:
    """Removes what is older than `keep_events_s` and `keep_logs_s`, a little at a time, so that nobody waits for it."""

    ledger: Ledger
    logs: FileLogArchive
    keep_events_s: float
    keep_logs_s: float
    _next_s: float = float("-inf")

    def __call__(self, now_s: float) -> float:
        """Remove some, if it is time; when to look again. Raises: what the ledger raises."""
        # A clock that was set back must not stop this for as long.
        if now_s < self._next_s <= now_s + EVERY_S:
            return self._next_s
        more = self.ledger.prune(before_s=now_s - self.keep_events_s)
        try:
            num_logs = self.logs.purge(before_s=now_s - self.keep_logs_s)
        except OSError as error:
            _log.warning("logs could not be removed", error=str(error))
            num_logs = 0
        if num_logs:
            _log.info("logs of attempts were removed", number=num_logs)
        self._next_s = now_s if more else now_s + EVERY_S
        return self._next_s


@dataclass(slots=True)
class CodeRetention:
    """Removes jobs' own code that no open job and no schedule names, and nobody has used for `keep_s`."""

    ledger: Ledger
    code: CodeStore
    keep_s: float
    _next_s: float = float("-inf")

    def __call__(self, now_s: float) -> float:
        """Remove it, if it is time; when to look again. Raises: what the ledger raises."""
        if now_s < self._next_s <= now_s + CODE_EVERY_S:
            return self._next_s
        documents = self.ledger.read.open_documents(holding=CODE_PREFIX)
        in_use = {code for document in documents for code in _NAMED.findall(document)}
        try:
            removed = self.code.prune(unused_s=self.keep_s, in_use=in_use)
        except OSError as error:
            _log.warning("code could not be removed", error=str(error))
            removed = []
        if removed:
            _log.info("code of jobs was removed", number=len(removed))
        self._next_s = now_s + CODE_EVERY_S
        return self._next_s
