"""The vLLM adapter against a stub (see vllm_stub.py); no real vLLM runs here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.spec.errors import UserError
from serving.engine.generation import EngineFailedError, FinishReason, RefusedError
from serving.engine.vllm_replica import VllmReplica, load_vllm
from serving.policy import RefusalReason, Tier, TierTarget
from tests.serving import vllm_stub
from tests.serving.worlds import PATIENT, generation, read_all


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> VllmReplica:
    monkeypatch.setitem(sys.modules, "vllm", vllm_stub)
    return load_vllm(Path("model"), PATIENT, slots=1, max_context=None, precision="bf16")


@contextlib.asynccontextmanager
async def started(replica: VllmReplica) -> AsyncIterator[vllm_stub.LLMEngine]:
    replica.start()
    try:
        yield replica._engine
    finally:
        await asyncio.to_thread(replica.close)


def test_answers_come_token_by_token_and_priorities_are_asked_for(replica: VllmReplica) -> None:
    async def work() -> None:
        async with started(replica) as engine:
            text, finished = await read_all(replica.submit(generation("a", "abc", max_tokens=5)))
            assert (text, finished.num_tokens, finished.reason) == ("abcab", 5, FinishReason.LENGTH)
            assert (engine.args.scheduling_policy, engine.args.dtype) == ("priority", "bfloat16")

    asyncio.run(work())


def test_earlier_deadlines_go_first_and_batch_goes_last(replica: VllmReplica) -> None:
    async def work() -> None:
        gate = threading.Event()
        async with started(replica) as engine:
            engine.before_step = gate.wait
            asked = [
                generation("first", max_tokens=1),
                dataclasses.replace(generation("batch", tier=Tier.BATCH, max_tokens=2), deadline_s=1.0),
                dataclasses.replace(generation("late", max_tokens=2), deadline_s=9e8),
                dataclasses.replace(generation("soon", max_tokens=2), deadline_s=8e8),
            ]
            answers = [replica.submit(each) for each in asked]
            gate.set()
            for answer in answers:
                await read_all(answer)
            order = list(dict.fromkeys(engine.served))
            assert order.index("soon") < order.index("late") < order.index("batch")

    asyncio.run(work())


def test_a_newer_keystroke_ends_the_older_and_a_drain_gives_batch_back(replica: VllmReplica) -> None:
    async def work() -> None:
        gate = threading.Event()
        async with started(replica) as engine:
            engine.before_step = gate.wait
            old = replica.submit(generation("old", tier=Tier.KEYSTROKE, session="s", max_tokens=50))
            new = replica.submit(generation("new", tier=Tier.KEYSTROKE, session="s", max_tokens=3))
            batch = replica.submit(generation("batch", tier=Tier.BATCH, max_tokens=50))
            replica.drain()
            gate.set()
            assert (await read_all(old))[1].reason is FinishReason.SUPERSEDED
            assert (await read_all(new))[1].num_tokens == 3
            with pytest.raises(EngineFailedError, match="about to leave"):
                await read_all(batch)
            assert engine.aborted == ["old", "batch"]

    asyncio.run(work())


def test_a_full_queue_and_a_hopeless_deadline_are_refused(replica: VllmReplica) -> None:
    async def work() -> None:
        none = dataclasses.replace(PATIENT, targets={Tier.INTERACTIVE: TierTarget(latency_s=1.0, max_waiting=0)})
        replica._live._config = none
        async with started(replica):
            with pytest.raises(RefusedError) as refused:
                await read_all(replica.submit(generation("a")))
            assert refused.value.refusal.reason is RefusalReason.QUEUE_FULL

    asyncio.run(work())


def test_a_crash_of_vllm_ends_every_answer_with_an_error(replica: VllmReplica) -> None:
    def crash() -> None:
        raise RuntimeError("device lost")

    async def work() -> None:
        async with started(replica) as engine:
            engine.before_step = crash
            with pytest.raises(EngineFailedError, match="device lost"):
                await read_all(replica.submit(generation("a")))
            with pytest.raises(EngineFailedError):
                await read_all(replica.submit(generation("b")))

    asyncio.run(work())


def test_what_vllm_does_not_take_ends_alone(replica: VllmReplica) -> None:
    async def work() -> None:
        async with started(replica):
            with pytest.raises(EngineFailedError, match="longer than the maximum"):
                await read_all(replica.submit(generation("long", "a" * 128)))
            assert (await read_all(replica.submit(generation("b", "ab", max_tokens=2))))[0] == "ab"

    asyncio.run(work())


@pytest.mark.parametrize(("said", "reason"), [("stop", FinishReason.STOP), ("length", FinishReason.LENGTH)])
def test_an_answer_ends_as_vllm_says(replica: VllmReplica, said: str, reason: FinishReason) -> None:
    async def work() -> None:
        async with started(replica) as engine:
            engine.finish_reason = said
            assert (await read_all(replica.submit(generation("a", max_tokens=2))))[1].reason is reason

    asyncio.run(work())


def test_a_request_that_vllm_gives_up_is_no_answer(replica: VllmReplica) -> None:
    async def work() -> None:
        async with started(replica) as engine:
            engine.finish_reason = "error"
            with pytest.raises(EngineFailedError, match="ended this request: error"):
                await read_all(replica.submit(generation("a", max_tokens=2)))
            assert replica.rollout.totals[""].failed == 1

    asyncio.run(work())


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="not installed") as missing:
        load_vllm(Path("model"), PATIENT, slots=1, max_context=None, precision="fp32")
    assert "tideline[vllm]" in (missing.value.next_step or "")
