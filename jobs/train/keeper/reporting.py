"""Who tells whom: every node reports to the lead what it holds, the lead tells every node what it has judged.

Level-triggered like the mirror: what somebody has not heard is told again until it has. Judging and telling are two
threads, so that a node which does not answer never delays a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from jobs.train import wire
from jobs.train.keeper.mirror import Retry
from jobs.train.keeper.runs import Runs
from jobs.train.keeper.transport import Fields, PeerGoneError, PeerRefusedError, PeerTransport
from jobs.train.keeper.values import Inventory, Verdicts

_log = structlog.get_logger(__name__)


class PatientCaller:
    """Asks peers, and leaves one that failed alone for a while. For one thread."""

    def __init__(self, transport: PeerTransport, retry: Retry, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._retry = retry
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def tell(self, node: str, op: str, body: str) -> Fields | None:
        """The answer's fields; None if the node does not answer, or did not a moment ago."""
        failures, retry_at_s = self._failures.get(node, (0, 0.0))
        if failures and self._clock() < retry_at_s:
            return None
        try:
            reply = self._transport.call(node, op, {"body": body})
        except (PeerGoneError, PeerRefusedError) as error:
            wait_s = self._retry.wait_s(failures + 1)
            self._failures[node] = (failures + 1, self._clock() + wait_s)
            _log.info("peer not told", peer=node, what=op, error=str(error), again_in_s=wait_s)
            return None
        self._failures.pop(node, None)
        return reply.fields

    def wait_s(self, node: str) -> float:
        """Seconds until a node that failed is asked again."""
        return max(0.0, self._failures[node][1] - self._clock()) if node in self._failures else 0.0


class Reporter:
    """Tells the lead what this node holds; on the lead, judges. `acted`: verdicts are new, others may have work."""

    def __init__(
        self, runs: Runs, caller: PatientCaller, clock: Callable[[], float], acted: Callable[[], None]
    ) -> None:
        self._runs = runs
        self._caller = caller
        self._clock = clock
        self._acted = acted

    def pump(self) -> float | None:
        """Report and judge all that is new. Seconds until the next call; None: not before news."""
        return _soonest(wait for plan in self._runs.plans() for wait in (self._report(plan.run), self._judge(plan.run)))

    def receive(self, inventory: Inventory) -> Verdicts | None:
        """A node reports to the lead; the present verdicts, or None if this is not the lead of its attempt."""
        with self._runs.changed:
            run = self._runs.get(inventory.run)
            if run is None or run.lead is None or run.plan.attempt != inventory.attempt:
                return None
            run.lead.receive(inventory)
            return run.lead.verdicts

    def _report(self, name: str) -> float | None:
        inventory = self._runs.inventory(name)
        with self._runs.changed:
            run = self._runs.get(name)
            if run is None or run.reported == inventory:
                return None
            lead = run.plan.lead
        if lead == self._runs.node:
            self.receive(inventory)
            self._acted()  # it may have been the last word that a commit was waiting for
        else:
            fields = self._caller.tell(lead, "report", wire.dump(inventory).decode())
            if fields is None:
                return self._caller.wait_s(lead)
            self._apply(wire.load(Verdicts, fields["verdicts"]))
        with self._runs.changed:
            run.reported = inventory
        return None

    def _judge(self, name: str) -> float | None:
        with self._runs.changed:
            run = self._runs.get(name)
            if run is None or run.lead is None:
                return None
            before, now_s = run.lead.verdicts, self._clock()
            verdicts = run.lead.judge(now_s)
            wait_s = run.lead.wait_s(now_s)
        if verdicts not in (before, run.verdicts):
            self._apply(verdicts)
        return wait_s

    def _apply(self, verdicts: Verdicts) -> None:
        self._runs.apply(verdicts)
        self._acted()


class Announcer:
    """On the lead: tells every other node the verdicts, and asks those who may have reported to a lead now dead."""

    def __init__(self, runs: Runs, caller: PatientCaller, acted: Callable[[], None]) -> None:
        self._runs = runs
        self._caller = caller
        self._acted = acted

    def pump(self) -> float | None:
        """Tell everybody what is news to them. Seconds until the next call; None: not before news."""
        return _soonest(wait for plan in self._runs.plans() for wait in (self._ask(plan.run), self._tell(plan.run)))

    def _ask(self, name: str) -> float | None:
        with self._runs.changed:
            run = self._runs.get(name)
            lead = run.lead if run else None
            unheard = lead.unheard() if lead else []
        waits = []
        for node in unheard:
            fields = self._caller.tell(node, "inventory", name)
            if lead is None or fields is None:
                waits.append(self._caller.wait_s(node))
                continue
            with self._runs.changed:
                lead.asked(node)
                lead.receive(wire.load(Inventory, fields["inventory"]))
            self._acted()
        return _soonest(waits)

    def _tell(self, name: str) -> float | None:
        with self._runs.changed:
            run = self._runs.get(name)
            lead = run.lead if run else None
            untold, verdicts = (lead.untold(), lead.verdicts) if lead else ([], None)
        waits = []
        for node in untold:
            if (
                lead is None
                or verdicts is None
                or self._caller.tell(node, "verdicts", wire.dump(verdicts).decode()) is None
            ):
                waits.append(self._caller.wait_s(node))
                continue
            with self._runs.changed:
                lead.told(node, verdicts)
        return _soonest(waits)


def _soonest(waits: Iterable[float | None]) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)
