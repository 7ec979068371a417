"""Several versions in one engine: an answer keeps the weights it began with, and a bad version is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from jobs.models.load import load_model
from serving.engine.generation import EngineFailedError
from serving.engine.protocol import BROKEN, DecodeRow, PrefillChunk
from serving.engine.rollout import Trial
from serving.engine.torch_engine import CachedModel, TorchEngine
from serving.policy.canary import CanaryRules, RollbackReason
from tests.serving.worlds import GREEDY, generation, read_all, running, tiny_engine, tiny_model

RULES = CanaryRules(weight=1.0, error_rate=0.02, burn_rate=6.0, after_s=300.0)
PROMPT = list(b"def f(x):")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("models")
    return [tiny_model(home / str(seed), seed) for seed in range(2)]


def model(folder: Path) -> CachedModel:
    return cast(CachedModel, load_model(folder)[0])


def broken(folder: Path) -> CachedModel:
    loaded, _ = load_model(folder)
    with torch.no_grad():
        loaded.norm.weight.fill_(float("nan"))
    return cast(CachedModel, loaded)


def start(engine: TorchEngine, slot: int, version: str = "") -> int:
    chunk = PrefillChunk(slot=slot, tokens=tuple(PROMPT), start=0, sampling=GREEDY, version=version)
    (token,), _ = engine.step([chunk], [])
    assert token is not None
    return token


def go_on(engine: TorchEngine, slots: list[int], answers: list[list[int]]) -> None:
    rows = [
        DecodeRow(slot=slot, token=answer[-1], position=len(PROMPT) + len(answer) - 1, sampling=GREEDY)
        for slot, answer in zip(slots, answers, strict=True)
    ]
    for answer, token in zip(answers, engine.decode(rows), strict=True):
        answer.append(token)


def alone(folder: Path, count: int) -> list[int]:
    engine = tiny_engine(folder)
    answer = [start(engine, 0)]
    while len(answer) < count:
        go_on(engine, [0], [answer])
    return answer


def test_an_answer_keeps_its_weights_when_new_ones_take_over(folders: list[Path]) -> None:
    engine = tiny_engine(folders[0])
    old = [start(engine, 0)]
    engine.serve(model(folders[1]))
    new = [start(engine, 1)]
    for step in range(11):
        if step == 5:  # parking moves the version along
            engine.resume(2, engine.park(0, len(PROMPT) + len(old) - 1))
        go_on(engine, [0 if step < 5 else 2, 1], [old, new])
    assert old == alone(folders[0], 12) != alone(folders[1], 12) == new


def test_a_version_on_offer_answers_those_who_ask_for_it(folders: list[Path]) -> None:
    engine = tiny_engine(folders[0])
    engine.offer("m@2", model(folders[1]))
    answers = [[start(engine, 0)], [start(engine, 1, "m@2")]]
    engine.offer("m@2", None)
    while len(answers[0]) < 8:
        go_on(engine, [0, 1], answers)
    assert answers == [alone(folders[0], 8), alone(folders[1], 8)]
    assert start(engine, 2, "m@2") == answers[0][0]  # taken back: the default answers


def test_weights_of_another_architecture_are_refused(folders: list[Path], tmp_path: Path) -> None:
    from jobs.models.task import load_task

    other = load_task("jobs.models.gpt:task", {"layers": 1, "d_model": 32, "heads": 2, "seq_len": 96}).build_model()
    with pytest.raises(ValueError, match="need a cache of shape"):
        tiny_engine(folders[0]).serve(cast(CachedModel, other.eval()))


def test_scores_that_are_no_numbers_break_their_row_alone(folders: list[Path]) -> None:
    engine = tiny_engine(folders[0])
    engine.offer("bad", broken(folders[0]))
    assert start(engine, 1, "bad") == BROKEN
    answer = [start(engine, 0)]
    go_on(engine, [0], [answer])
    assert answer == alone(folders[0], 2)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_a_canary_that_fails_is_taken_back_and_the_stable_version_goes_on(folders: list[Path]) -> None:
    async def work() -> None:
        engine = tiny_engine(folders[0])
        async with running(engine) as replica:

            def begin() -> None:
                engine.offer("bad", broken(folders[0]))
                replica.rollout.begin(Trial(version="bad", rules=RULES, since_s=replica.clock()))

            await asyncio.to_thread(replica.between_steps, begin)
            failed = 0
            for index in range(25):
                try:
                    await read_all(replica.submit(generation(f"r{index}", max_tokens=2)))
                except EngineFailedError:
                    failed += 1
            assert failed == 20
            assert replica.rollout.trial is None
            assert replica.rollout.rolled_back is not None
            assert replica.rollout.rolled_back.reason is RollbackReason.ERRORS
            assert replica.failure is None

    run(work)


def test_nothing_runs_between_steps_of_a_replica_that_has_ended(folders: list[Path]) -> None:
    async def work() -> None:
        async with running() as replica:
            pass
        with pytest.raises(RuntimeError, match="shutting down"):
            replica.between_steps(lambda: None)

    run(work)
