"""The engine thread: answers, cancellation, supersede, refusal, failure."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from serving.engine.echo import EchoEngine
from serving.engine.generation import Delta, EngineFailedError, FinishReason, RefusedError
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.policy import Tier, TierTarget
from tests.serving.worlds import (
    PATIENT,
    SlowToDecide,
    generation,
    read_all,
    running,
    started,
    tiny_engine,
    tiny_model,
)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


class Gate:
    """Lets engine steps through one by one."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.open = False

    def __call__(self) -> None:
        self.entered.release()
        if not self.open:
            self._permits.acquire()

    async def step(self) -> None:
        """Wait until the engine stands at the gate, then let it through once."""
        await asyncio.to_thread(self.entered.acquire)
        self._permits.release()

    def let_through(self) -> None:
        self._permits.release()

    def throw_open(self) -> None:
        self.open = True
        self._permits.release()


def test_an_answer_has_its_tokens_and_its_end() -> None:
    async def work() -> None:
        async with running() as replica:
            text, finished = await read_all(replica.submit(generation("a", "abc", max_tokens=7)))
            assert (text, finished.reason, finished.num_tokens) == ("abcabca", FinishReason.LENGTH, 7)

    run(work)


def test_tokens_of_an_answer_that_is_sent_whole_come_together_after_the_first() -> None:
    async def work() -> None:
        async with running() as replica:
            asked = dataclasses.replace(generation("a", "abc", max_tokens=40), streamed=False)
            answer, sizes, text = replica.submit(asked), [], ""
            while isinstance(event := await answer.next(), Delta):
                sizes.append(event.num_tokens)
                text += event.text
            assert (sizes, text, event.num_tokens) == ([1, 16, 16, 7], ("abc" * 14)[:40], 40)

    run(work)


def test_a_superseded_answer_that_is_sent_whole_keeps_what_it_has() -> None:
    async def work() -> None:
        gate = Gate()
        async with running(EchoEngine(num_slots=2, before_step=gate)) as replica:
            old, new = (
                dataclasses.replace(generation(name, "abc", tier=Tier.KEYSTROKE, session="s"), streamed=False)
                for name in ("old", "new")
            )
            leaving = replica.submit(old)
            for _ in range(3):
                await gate.step()
            await asyncio.to_thread(gate.entered.acquire)
            coming = replica.submit(new)
            gate.throw_open()
            text, finished = await read_all(leaving)
            assert (finished.reason, len(text)) == (FinishReason.SUPERSEDED, finished.num_tokens)
            assert (await read_all(coming))[0] == "abcabc"

    run(work)


def test_more_requests_than_slots_are_all_answered() -> None:
    async def work() -> None:
        async with running(EchoEngine(num_slots=2)) as replica:
            answers = [replica.submit(generation(f"r{i}", f"{i}:", tier=list(Tier)[i % 3])) for i in range(9)]
            texts = await asyncio.gather(*(read_all(answer) for answer in answers))
            assert [text for text, _ in texts] == [f"{i}:" * 3 for i in range(9)]

    run(work)


def test_a_stop_string_ends_the_answer_and_frees_the_slot() -> None:
    async def work() -> None:
        engine = EchoEngine(num_slots=1)
        async with running(engine) as replica:
            text, finished = await read_all(replica.submit(generation("a", "ab.c", max_tokens=100, stop=["."])))
            assert (text, finished.reason, finished.num_tokens) == ("ab", FinishReason.STOP, 3)
            assert (await read_all(replica.submit(generation("b", "x"))))[0] == "xxxxxx"

    run(work)


def test_a_cancelled_request_is_out_of_the_very_next_step() -> None:
    async def work() -> None:
        gate = Gate()
        engine = EchoEngine(num_slots=1, before_step=gate)
        async with running(engine) as replica:
            leaving = replica.submit(generation("a", "abc", max_tokens=400))
            staying = replica.submit(generation("b", "xyz", max_tokens=2))
            await gate.step()  # a's prefill
            assert isinstance(await leaving.next(), Delta)
            await asyncio.to_thread(gate.entered.acquire)  # a's first decode is running
            leaving.cancel()
            gate.throw_open()
            assert (await read_all(staying))[0] == "xy"
            assert replica.stats().wasted_tokens == 2

    run(work)


def test_the_newest_keystroke_ends_the_older_with_superseded() -> None:
    async def work() -> None:
        gate = Gate()
        async with running(EchoEngine(before_step=gate)) as replica:
            old = replica.submit(generation("old", tier=Tier.KEYSTROKE, session="s", max_tokens=400))
            await gate.step()
            await old.next()
            new = replica.submit(generation("new", tier=Tier.KEYSTROKE, session="s"))
            gate.throw_open()
            _, finished = await read_all(old)
            assert finished.reason is FinishReason.SUPERSEDED
            assert (await read_all(new))[1].reason is FinishReason.LENGTH

    run(work)


def test_a_full_queue_refuses_with_a_time() -> None:
    async def work() -> None:
        gate = Gate()
        one = TierTarget(latency_s=600.0, max_waiting=1)
        config = dataclasses.replace(PATIENT, targets={**PATIENT.targets, Tier.INTERACTIVE: one})
        async with running(EchoEngine(num_slots=1, before_step=gate), config) as replica:
            first = replica.submit(generation("a"))
            await asyncio.to_thread(gate.entered.acquire)  # a holds the slot
            second, third = replica.submit(generation("b")), replica.submit(generation("c"))
            gate.throw_open()
            with pytest.raises(RefusedError) as refused:
                await third.next()
            assert refused.value.refusal.retry_after_s >= 0
            assert len(await asyncio.gather(read_all(first), read_all(second))) == 2

    run(work)


def test_a_broken_engine_fails_everyone_at_once_and_says_so_afterwards() -> None:
    def explode() -> None:
        raise RuntimeError("out of memory")

    async def work() -> None:
        async with running(EchoEngine(before_step=explode)) as replica:
            for name in "ab":
                with pytest.raises(EngineFailedError, match="out of memory"):
                    await replica.submit(generation(name)).next()
            assert replica.failure == "the engine failed: RuntimeError: out of memory"

    run(work)


def test_closing_ends_live_requests() -> None:
    async def work() -> None:
        async with running(EchoEngine(max_context=10**6)) as replica:
            answer = replica.submit(generation("a", max_tokens=10**5))
            await answer.next()
            await asyncio.to_thread(replica.close)
            with pytest.raises(EngineFailedError, match="shutting down"):
                await read_all(answer)

    run(work)


def test_answers_of_a_real_model_do_not_depend_on_who_else_is_served(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    prompts = [f"def f{i}(" for i in range(7)]

    async def together(num_slots: int) -> list[str]:
        async with running(tiny_engine(folder, num_slots=num_slots)) as replica:
            tiers = list(Tier)
            answers = [
                replica.submit(generation(str(i), prompt, tier=tiers[i % 3], max_tokens=20))
                for i, prompt in enumerate(prompts)
            ]
            return [text for text, _ in await asyncio.gather(*(read_all(answer) for answer in answers))]

    async def alone() -> list[str]:
        async with running(tiny_engine(folder)) as replica:
            return [(await read_all(replica.submit(generation(p, p, max_tokens=20))))[0] for p in prompts]

    expected = asyncio.run(alone())
    assert asyncio.run(together(2)) == expected == asyncio.run(together(4))


def test_a_drain_gives_batch_rows_back_and_finishes_online_answers() -> None:
    async def work() -> None:
        gate = Gate()
        async with running(EchoEngine(before_step=gate)) as replica:
            online = replica.submit(generation("online", max_tokens=4))
            batch = replica.submit(generation("batch", tier=Tier.BATCH, max_tokens=400))
            await gate.step()
            replica.drain()
            gate.throw_open()
            with pytest.raises(EngineFailedError, match="about to leave"):
                await read_all(batch)
            assert (await read_all(online))[1].num_tokens == 4
            with pytest.raises(EngineFailedError, match="about to leave"):
                await read_all(replica.submit(generation("later", tier=Tier.BATCH)))
            assert replica.failure is None

    run(work)


def test_a_flood_does_not_keep_those_who_are_in_from_their_next_step() -> None:
    async def work() -> None:
        gate, scheduler = Gate(), SlowToDecide(num_slots=2)
        engine = EchoEngine(num_slots=2, before_step=gate)
        async with started(Replica(engine, scheduler, ByteTokenizer(), clock=scheduler.clock)) as replica:
            replica.submit(generation("first", "abc"))
            await asyncio.to_thread(gate.entered.acquire)
            for number in range(50):
                replica.submit(generation(f"flood-{number}", "abc"))
            gate.let_through()
            await asyncio.to_thread(gate.entered.acquire)
            assert 1 < scheduler.num_decided < 5
            gate.throw_open()

    run(work)


def test_a_client_that_leaves_is_out_of_the_next_step_whatever_flood_stands_before_it() -> None:
    async def work() -> None:
        gate, scheduler = Gate(), SlowToDecide(num_slots=1)
        engine = EchoEngine(num_slots=1, before_step=gate)
        async with started(Replica(engine, scheduler, ByteTokenizer(), clock=scheduler.clock)) as replica:
            leaving = replica.submit(generation("leaving", "abc", max_tokens=400))
            await asyncio.to_thread(gate.entered.acquire)
            for number in range(50):
                replica.submit(generation(f"flood-{number}", "abc"))
            leaving.cancel()
            gate.let_through()
            await asyncio.to_thread(gate.entered.acquire)
            assert scheduler.num_decided < 50
            assert "leaving" not in scheduler
            gate.throw_open()

    run(work)


def test_nothing_is_decided_for_a_client_that_left_before_its_turn_came() -> None:
    async def work() -> None:
        gate, scheduler = Gate(), SlowToDecide(num_slots=1)
        engine = EchoEngine(num_slots=1, before_step=gate)
        async with started(Replica(engine, scheduler, ByteTokenizer(), clock=scheduler.clock)) as replica:
            replica.submit(generation("first", "abc"))
            await asyncio.to_thread(gate.entered.acquire)
            for number in range(9):
                replica.submit(generation(f"gone-{number}", "abc")).cancel()
            last = replica.submit(generation("last", "xyz"))
            gate.throw_open()
            assert (await read_all(last))[0] == "xyzxyz"
            assert scheduler.num_decided == 2

    run(work)


def test_what_is_decided_between_two_steps_counts_as_time_that_they_take() -> None:
    async def work() -> None:
        scheduler = SlowToDecide(num_slots=2)
        async with started(Replica(EchoEngine(), scheduler, ByteTokenizer(), clock=scheduler.clock)) as replica:
            _, finished = await read_all(replica.submit(generation("a", "abc", max_tokens=5)))
            assert finished.num_tokens == 5
            steps = replica.stats()
        assert steps.busy_s == pytest.approx(0.001 * (steps.steps - 1))  # the first one followed no other

    run(work)
