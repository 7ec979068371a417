"""One control cycle: the only place where it is decided how many devices anybody holds.

The same for the live system and the simulator; only the ports differ. `decide` is what `plan`, `why` and `--dry-run`
call, too: they print exactly what the next cycle would do.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.policy.queueing.conservation import breaches
from orchestrator.policy.queueing.decide import decide_queues
from orchestrator.policy.queueing.decisions import Decisions
from orchestrator.policy.queueing.values import Snapshot
from orchestrator.ports import Capacity, Clock, Endpoints, Ledger, Order, Runner, UnreachableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The outside world of one cycle."""

    clock: Clock
    capacity: Capacity
    endpoints: Endpoints
    ledger: Ledger
    runner: Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport:
    """What a cycle did. `waiting_orders`: orders nobody could be reached for; the next cycle repeats them."""

    now_s: float
    decisions: Decisions
    sent: tuple[Order, ...]
    waiting_orders: tuple[Order, ...]


def decide(snapshot: Snapshot) -> Decisions:
    """What is to be done now: pure, and the one function that allocates.

    The conservation laws are asserted on every decision: a broken one must never reach the ledger.
    """
    with _uncollected():
        decisions = decide_queues(snapshot)
        broken = breaches(snapshot, decisions)
    assert not broken, f"decisions break the books: {broken}"
    return decisions


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Leave garbage for later: a decision makes tens of thousands of values and no circles, and would be interrupted by
    searches through everything that lives."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def run_cycle(ports: Ports) -> CycleReport:
    """Observe, decide, apply, record. Every step may be cut off by a crash: the next cycle observes again.

    Raises: FencedError when somebody else leads; UnreachableError when capacity or ledger do not answer.
    """
    # 1. Observe: the clock is read once, and everything is seen as of then. What became of attempts is in the books
    #    before its runner may forget it; a runner that is out of sight changes nothing.
    now_s = ports.clock.now_s()
    _hear(ports, now_s)
    headroom, owed, urgent = ports.endpoints.headroom(), ports.endpoints.owed(), ports.endpoints.urgent()
    passing = ports.endpoints.passing()
    pools = tuple(
        replace(
            pool,
            headroom=headroom.get(pool.name, 0),
            owed=owed.get(pool.name, ()),
            urgent=urgent.get(pool.name, 0),
            passing=passing.get(pool.name, 0),
        )
        for pool in ports.capacity.observe()
    )
    snapshot = ports.ledger.snapshot(pools, now_s=now_s)
    # 2. Decide.
    decisions = decide(snapshot)
    # 3. Apply: leases and orders are committed before anybody outside hears of them. After a crash in between, the
    #    books say more than what runs, never less, and the orders are sent again.
    ports.ledger.commit(snapshot, decisions)
    orders = ports.ledger.unsent()
    sent = tuple(order for order in orders if _asked(ports.runner, order))
    # 4. Record who has taken his order. Not being reached is no failure of a job.
    ports.ledger.sent(sent)
    taken = {order.id for order in sent}
    waiting = tuple(order for order in orders if order.id not in taken)
    return CycleReport(now_s=now_s, decisions=decisions, sent=sent, waiting_orders=waiting)


def _hear(ports: Ports, now_s: float) -> None:
    try:
        reports = ports.runner.reports()
    except UnreachableError:
        return
    ended = ports.ledger.record(reports, now_s=now_s)
    # Who cannot be reached says it again, and is told again.
    with contextlib.suppress(UnreachableError):
        ports.runner.acknowledge(ended)


def _asked(runner: Runner, order: Order) -> bool:
    try:
        runner.ask(order)
    except UnreachableError:
        return False
    return True
