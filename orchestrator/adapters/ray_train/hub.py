"""The run's switchboard: a light actor through which driver, controller and supervisors find each other.

It holds no policy and no tensor: the driver's offer of the next attempt, a mailbox of what happened, and the orders to
the workers of the running attempt. Everyone waits here instead of polling, so that an idle run costs nothing and a
stop reaches 200 workers in one round trip.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from orchestrator.adapters.ray_train.mail import NOTHING, Inbox, Sent
from orchestrator.adapters.ray_train.protocol import (
    Abort,
    AttemptPlan,
    GroupIdle,
    Hung,
    Item,
    Joined,
    Leaving,
    Left,
    Order,
    Place,
    RunOver,
)

# Long polls of 200 supervisors, two or three each, must not queue behind one another.
MAX_CONCURRENCY = 10_000
# How long a word that was sent earlier is waited for. It has left its sender, so only Ray or the machine holds it up.
ARRIVE_S = 60.0


class Hub:
    """One per run. Methods are coroutines of one event loop: no locks; every wait ends after `wait_s` at the latest."""

    def __init__(self) -> None:
        # One condition for each kind of waiter: with a single one, every message of 200 workers would wake 200 others.
        self._mail, self._offered, self._ordered, self._met, self._leaving, self._arrived = (
            asyncio.Condition() for _ in range(6)
        )
        self._inbox = Inbox()
        self._items: list[Item] = []
        self._offer: AttemptPlan | RunOver | None = None
        self._plan: AttemptPlan | None = None
        self._master: tuple[str, int] | None = None
        self._orders: list[Order] = []
        self._left: dict[int, Left] = {}
        self._hung = False

    # -- driver -------------------------------------------------------------------------------------------------

    async def offer(self, offer: AttemptPlan | RunOver) -> None:
        """Say what comes next; the controller takes it when it has no group."""
        self._offer = offer
        await _notify(self._offered)

    async def order(self, order: Order) -> None:
        """Give an order to every worker of the running attempt; one for another attempt is dropped."""
        if self._plan is not None and order.attempt == self._plan.attempt:
            self._orders.append(order)
            await _notify(self._ordered)

    async def items(self, wait_s: float) -> list[Item]:
        """What happened since the last call, oldest first; the driver is the only one who asks."""
        await _until(self._mail, lambda: bool(self._items), wait_s)
        items, self._items = self._items, []
        return items

    # -- controller ---------------------------------------------------------------------------------------------

    async def note(self, item: Item) -> None:
        """Put something into the driver's mailbox."""
        self._items.append(item)
        await _notify(self._mail)

    async def take(self, idle: GroupIdle | None, wait_s: float, after: Sent = NOTHING) -> AttemptPlan | RunOver | None:
        """The driver's offer, once; None when there is none yet. `idle` is passed on when the controller became so, and
        after what it had posted before."""
        if idle is not None:
            await _until(self._arrived, lambda: self._inbox.has(after), ARRIVE_S)
            self._items.append(idle)
            await _notify(self._mail)
        await _until(self._offered, lambda: self._offer is not None, wait_s)
        offer, self._offer = self._offer, None
        if isinstance(offer, AttemptPlan):
            self._plan, self._master, self._orders, self._left, self._hung = offer, None, [], {}, False
            for waiting in (self._ordered, self._met, self._leaving):
                await _notify(waiting)  # whoever still waits for the attempt before: it is past
        return offer

    async def over(self, attempt: int, wait_s: float) -> bool:
        """Whether all workers of the attempt have left or one has failed, waiting for it if need be."""
        await self._until_over(attempt, wait_s)
        return self._is_past(attempt) or self._all_left() or self._any_failed()

    # -- supervisors --------------------------------------------------------------------------------------------

    async def join(self, worker: int, node_id: str, host: str, port: int) -> Place:
        """Take a place in the current attempt; waits for worker 0, whose host and port all ranks meet at."""
        assert self._plan is not None, "a worker started before any attempt was taken"
        plan = self._plan
        if worker == 0:
            self._master = (host, port)
            await _notify(self._met)
        self._items.append(Joined(attempt=plan.attempt, worker=worker, node_id=node_id, at_s=time.time()))
        await _notify(self._mail)
        await _until(self._met, lambda: self._master is not None or self._is_past(plan.attempt), None)
        if self._master is None:
            raise RuntimeError(f"attempt {plan.attempt} was given up before its first worker came")
        return Place(plan=plan, master_addr=self._master[0], master_port=self._master[1])

    async def post(self, sent: Sent, items: list[Item]) -> None:
        """Pass on to the driver what a supervisor or the controller has to say, in the order of each sender."""
        # Taken out of its order: it is worth most before anybody leaves.
        self._hung = self._hung or any(isinstance(item, Hung) and not self._is_past(item.attempt) for item in items)
        self._items.extend(self._inbox.put(sent, items))
        await _notify(self._mail)
        await _notify(self._arrived)

    async def orders(self, attempt: int, known: int, wait_s: float) -> list[Order]:
        """Orders of the attempt beyond the first `known`; an `Abort` when the attempt is not the current one."""
        await _until(self._ordered, lambda: self._is_past(attempt) or len(self._orders) > known, wait_s)
        if self._is_past(attempt):
            return [Abort(attempt=attempt, reason="another attempt has begun")]
        return self._orders[known:]

    async def leave(self, left: Left, after: Sent = NOTHING) -> None:
        """Say that this worker's ranks are gone, after all that it has posted. Returns when all workers of the attempt
        have left, or one failed.

        So no worker of an orderly stop exits while another is still saving. The first failure aborts all others.
        """
        await _until(self._arrived, lambda: self._inbox.has(after), ARRIVE_S)
        self._items.extend(self._inbox.forget(after))
        if self._is_past(left.attempt):
            return
        self._items.append(left)
        first_failure = left.how is Leaving.FAILED and not any(isinstance(o, Abort) for o in self._orders)
        self._left[left.worker] = left
        if first_failure:
            hung = self._hung or left.kind == "hang"
            self._orders.append(Abort(attempt=left.attempt, reason=left.detail, stacks=hung))
            await _notify(self._ordered)
        await _notify(self._mail)
        if self._all_left() or self._any_failed():
            await _notify(self._leaving)
        else:
            await self._until_over(left.attempt, None)

    async def _until_over(self, attempt: int, wait_s: float | None) -> None:
        await _until(self._leaving, lambda: self._is_past(attempt) or self._all_left() or self._any_failed(), wait_s)

    def _is_past(self, attempt: int) -> bool:
        return self._plan is None or self._plan.attempt != attempt

    def _all_left(self) -> bool:
        return self._plan is not None and len(self._left) == self._plan.num_workers

    def _any_failed(self) -> bool:
        return any(left.how in (Leaving.FAILED, Leaving.ABORTED) for left in self._left.values())


async def _notify(waiting: asyncio.Condition) -> None:
    async with waiting:
        waiting.notify_all()


async def _until(waiting: asyncio.Condition, holds: Callable[[], bool], wait_s: float | None) -> None:
    async with waiting:
        try:
            await asyncio.wait_for(waiting.wait_for(holds), wait_s)
        except TimeoutError:
            return
