"""What is removed after its time of keeping: events, decisions, idempotency keys and the logs of attempts that ended.

A chore of the leader. Jobs, attempts, leases and the books themselves are kept for good.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from orchestrator.ledger.repository import Ledger
from orchestrator.service.logs import FileLogArchive

EVERY_S = 600.0
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
