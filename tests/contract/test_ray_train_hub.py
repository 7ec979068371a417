"""The run's switchboard: nobody leaves a stop early, the first failure reaches everybody, offers go out once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from jobs.train.messages import Stop, encode
from orchestrator.adapters.ray_train.hub import Hub
from orchestrator.adapters.ray_train.mail import Inbox, Outbox, Sent
from orchestrator.adapters.ray_train.protocol import Abort, GroupIdle, Hung, Joined, Leaving, Left, RunOver, Said, Tell
from tests.contract.ray_train_fakes import plan

SOON_S = 5.0


def left(worker: int, how: Leaving, attempt: int = 1) -> Left:
    return Left(attempt=attempt, worker=worker, node_id="n", at_s=0.0, how=how, detail="why")


async def started(workers: int = 2) -> Hub:
    """A hub whose attempt 1 has been taken and joined by all workers."""
    hub = Hub()
    await hub.offer(plan(1, world_size=workers))
    await hub.take(None, SOON_S)
    await asyncio.gather(*(hub.join(worker, "n", "host", 7) for worker in range(workers)))
    await hub.items(0)
    return hub


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


def test_an_offer_is_taken_once_and_nobody_spins_for_it() -> None:
    async def story() -> None:
        hub = Hub()
        taking = asyncio.create_task(hub.take(GroupIdle(at_s=1.0), SOON_S))
        assert await hub.items(SOON_S) == [GroupIdle(at_s=1.0)]
        assert not taking.done()
        await hub.offer(plan(1))
        assert await taking == plan(1)
        assert await hub.take(None, 0) is None

    run(story())


def test_workers_wait_for_worker_0_and_meet_at_its_address() -> None:
    async def story() -> None:
        hub = Hub()
        await hub.offer(plan(1, world_size=2))
        await hub.take(None, SOON_S)
        second = asyncio.create_task(hub.join(1, "n1", "host1", 1))
        await hub.items(SOON_S)
        assert not second.done()
        first = await hub.join(0, "n0", "host0", 42)
        assert (first.master_addr, first.master_port) == ("host0", 42)
        assert await second == first
        (joined,) = await hub.items(0)
        assert isinstance(joined, Joined)
        assert joined.worker == 0

    run(story())


def test_an_orderly_stop_ends_when_the_last_worker_has_left() -> None:
    async def story() -> None:
        hub = await started()
        first = asyncio.create_task(hub.leave(left(0, Leaving.STOPPED)))
        await hub.items(SOON_S)
        assert not first.done()
        assert not await hub.over(1, 0)
        await hub.leave(left(1, Leaving.STOPPED))
        await first
        assert await hub.over(1, 0)

    run(story())


def test_the_first_failure_reaches_all_others_and_the_controller() -> None:
    async def story() -> None:
        hub = await started()
        waiting = asyncio.create_task(hub.orders(1, 0, SOON_S))
        await hub.leave(left(0, Leaving.FAILED))
        await hub.leave(left(1, Leaving.FAILED))
        assert await waiting == [Abort(attempt=1, reason="why")]
        assert await hub.orders(1, 1, 0) == []
        assert await hub.over(1, 0)

    run(story())


def test_who_is_told_to_end_says_where_he_stands_once_somebody_has_waited_in_vain() -> None:
    """Its peer's closed connection may be told first: the word that somebody hung goes before everything."""

    async def story() -> None:
        for hung in (True, False):
            hub = await started(3)
            if hung:
                early = Sent("one", 1)  # what was sent before it is still on its way
                await hub.post(early, [Hung(attempt=1, worker=0)])
            failed = asyncio.create_task(hub.leave(left(1, Leaving.FAILED)))
            (abort,) = await hub.orders(1, 0, SOON_S)
            assert isinstance(abort, Abort)
            assert abort.stacks is hung
            await failed

    run(story())


def test_orders_are_kept_for_workers_that_ask_late_and_end_with_the_attempt() -> None:
    async def story() -> None:
        hub = await started()
        stop = Tell(attempt=1, line=encode(Stop("grow")))
        await hub.order(stop)
        await hub.order(Tell(attempt=9, line=b""))
        assert await hub.orders(1, 0, 0) == [stop]
        await hub.offer(plan(2))
        await hub.take(None, 0)
        (abort,) = await hub.orders(1, 1, 0)
        assert isinstance(abort, Abort)
        assert await hub.orders(2, 0, 0) == []

    run(story())


def test_a_worker_of_an_old_attempt_may_leave_at_any_time() -> None:
    async def story() -> None:
        hub = await started()
        await hub.offer(plan(2))
        await hub.take(None, 0)
        await hub.leave(left(0, Leaving.STOPPED, attempt=1))
        assert not await hub.over(2, 0)
        assert await hub.items(0) == []

    run(story())


def test_the_end_of_the_run_is_an_offer_like_any_other() -> None:
    async def story() -> None:
        hub = Hub()
        await hub.offer(RunOver(error="no"))
        assert await hub.take(None, 0) == RunOver(error="no")

    run(story())


def said(number: int) -> Said:
    return Said(attempt=1, rank=0, at_s=float(number), line=b"")


def test_what_comes_early_waits_for_what_was_sent_before_it() -> None:
    async def story() -> None:
        hub = await started()
        await hub.post(Sent("a", 1), [said(1)])
        await hub.post(Sent("b", 0), [said(7)])
        assert await hub.items(0) == [said(7)]
        await hub.post(Sent("a", 2), [said(2)])
        assert await hub.items(0) == []
        await hub.post(Sent("a", 0), [said(0)])
        assert await hub.items(0) == [said(0), said(1), said(2)]

    run(story())


def test_nobody_leaves_before_his_last_word_has_come() -> None:
    async def story() -> None:
        hub = await started(workers=1)
        leaving = asyncio.create_task(hub.leave(left(0, Leaving.STOPPED), Sent("a", 1)))
        assert await hub.items(0.05) == []
        await hub.post(Sent("a", 0), [said(0)])
        await leaving
        assert await hub.items(0) == [said(0), left(0, Leaving.STOPPED)]

    run(story())


def test_the_controller_is_idle_after_all_that_it_told_before() -> None:
    async def story() -> None:
        hub = Hub()
        taking = asyncio.create_task(hub.take(GroupIdle(at_s=1.0), SOON_S, Sent("c", 1)))
        assert await hub.items(0.05) == []
        await hub.post(Sent("c", 0), [said(0)])
        assert await hub.items(SOON_S) == [said(0), GroupIdle(at_s=1.0)]
        await hub.offer(plan(1))
        assert await taking == plan(1)

    run(story())


def test_a_word_that_never_comes_keeps_nobody_for_ever(monkeypatch) -> None:
    async def story() -> None:
        hub = await started(workers=1)
        await hub.post(Sent("a", 1), [said(1)])
        await hub.leave(left(0, Leaving.STOPPED), Sent("a", 2))
        assert await hub.items(0) == [said(1), left(0, Leaving.STOPPED)]

    monkeypatch.setattr("orchestrator.adapters.ray_train.hub.ARRIVE_S", 0.01)
    run(story())


def test_messages_in_any_order_are_read_as_they_were_sent() -> None:
    calls: list[tuple[Sent, list[Any]]] = []

    class Hub:
        class post:  # noqa: N801 - as an actor's method is called
            @staticmethod
            def remote(sent: Sent, items: list[Any]) -> None:
                calls.append((sent, items))

    boxes = [Outbox(Hub), Outbox(Hub)]
    for number in range(20):
        boxes[number % 2].send([said(number)])
    inbox = Inbox()
    read = [
        item
        for sent, items in sorted(calls, key=lambda call: call[1][0].at_s * 7 % 20)
        for item in inbox.put(sent, items)
    ]
    for odd in (0, 1):
        assert [item for item in read if item.at_s % 2 == odd] == [said(number) for number in range(odd, 20, 2)]
    assert all(inbox.has(box.sent) for box in boxes)
