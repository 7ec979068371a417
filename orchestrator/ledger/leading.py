"""Who leads, and the one way to change something: a draft on what is in memory, fenced, committed, and then true.

Only the leader writes, so that it may keep in memory what is alive; whoever lost the lead is fenced by the token in his
next transaction, forgets what he has in memory, and may lead again later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.ledger import leader
from orchestrator.ledger.change import Change
from orchestrator.ledger.clusters import load_facts, load_holds
from orchestrator.ledger.database import Database, open_database
from orchestrator.ledger.deciding import Scribe
from orchestrator.ledger.digest import Digest
from orchestrator.ledger.errors import FencedError, NotLeadingError
from orchestrator.ledger.facts import DEFAULT_RULES, ClusterFacts
from orchestrator.ledger.mirror import Mirror
from orchestrator.ledger.node_holds import Holds, load_node_holds
from orchestrator.ledger.notes import NoteBook
from orchestrator.ledger.reading import Reader
from orchestrator.ledger.schema import check_schema
from orchestrator.ledger.seeing import Seer
from orchestrator.policy.queueing.parties import Rules

PATIENCE_S = 10.0
"""A leader that was not heard of for so long has lost the lead; it says something every third of it."""


class Leading:
    """One database as a process that leads, or would. It may be open already. `holder` names this process to others;
    `clock` gives UTC seconds."""

    def __init__(
        self,
        url: str | Database,
        *,
        holder: str,
        clock: Callable[[], float],
        rules: Rules = DEFAULT_RULES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.database: Database = open_database(url) if isinstance(url, str) else url
        self.read = Reader(self.database)
        self.holder = holder
        self._clock = clock
        self._rules = rules
        self._patience_ms = round(patience_s * 1000)
        self._lock = threading.RLock()
        self._token: int | None = None
        self._heartbeat_ms = 0
        self._noticed: int | None
        self._mirror: Mirror
        self._seer: Seer
        self._node_holds: Holds
        self._forget()

    def lead(self) -> bool:
        """Lead if nobody else does; while leading, say so to others. False if somebody else leads.

        Raises: UnreachableError; LedgerError when the database is not of this version (`tide db upgrade`).
        """
        with self._lock:
            now_ms = self._real_ms()
            if self._token is not None and self._beat(now_ms):
                return True
            with self.database.writing() as connection:
                check_schema(connection)
                mine = leader.seize(connection, self.holder, now_ms=now_ms, patience_ms=self._patience_ms)
                if mine is None:
                    return False
                self._forget()
                self._mirror.load(connection, load_facts(connection, self._rules))
                self._seer.held = load_holds(connection)
                self._node_holds = load_node_holds(connection)
            self._token, self._heartbeat_ms = mine.token, now_ms
            self._decided_ms = max((row.started_ms or 0 for row in self._mirror.jobs.rows.values()), default=0)
            return True

    def _beat(self, now_ms: int) -> bool:
        if 0 <= now_ms - self._heartbeat_ms < self._patience_ms / 3:
            return True
        with self.database.writing() as connection:
            alive = leader.beat(connection, self._token or 0, now_ms=now_ms)
        if not alive:
            self._forget()
        self._heartbeat_ms = now_ms
        return alive

    def resign(self) -> None:
        """Let somebody else lead at once. Whoever does not lead does nothing."""
        with self._lock:
            if self._token is not None:
                with self.database.writing() as connection:
                    leader.resign(connection, self._token)
                self._forget()

    def close(self) -> None:
        """Give up the lead and all connections."""
        try:
            self.resign()
        finally:
            self.database.close()

    @property
    def leads(self) -> bool:
        """Whether this process was the leader when it was last told."""
        return self._token is not None

    @contextmanager
    def _change(self, kind: str, actor: str, now_s: float | None = None) -> Iterator[Change]:
        """A change that is committed at the end, unless it is empty or something is raised."""
        with self._lock:
            token = self._lead_or_raise()
            change = Change(self._mirror, self._now_ms(now_s), token, kind, actor)
            yield change
            if change.is_empty:
                return
            try:
                with self.database.writing() as connection:
                    change.write(connection)
            except FencedError:
                self._forget()
                raise
            except BaseException:
                # Whether it was committed is not known: what is in memory may be wrong from here on.
                self._forget()
                raise
            change.settle()

    @property
    def _facts(self) -> ClusterFacts:
        return self._mirror.facts

    def _lead_or_raise(self) -> int:
        if self._token is None:
            raise NotLeadingError(self.read.leader().holder)
        return self._token

    def _forget(self) -> None:
        self._token = None
        self._noticed = None
        self._decided_ms = 0
        self._mirror = Mirror()
        self._seer = Seer(self._mirror)
        self._scribe = Scribe(Digest())
        self._notes = NoteBook(self.read.notes)
        self._node_holds = {}

    def _real_ms(self) -> int:
        return round(self._clock() * 1000)

    def _now_ms(self, now_s: float | None) -> int:
        """Book time never runs backwards, whatever the clock does: device-time would be negative."""
        return max(self._mirror.clock_ms, self._real_ms() if now_s is None else round(now_s * 1000))
