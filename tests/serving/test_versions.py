"""Several versions in one engine: an answer keeps the weights it began with, and a bad version is taken back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import torch

from jobs.models.load import load_model
from orchestrator.spec import Endpoint, UserError, load_text
from serving.app import ReplicaSpec, ServingProcess, build_replica
from serving.engine.generation import EngineFailedError
from serving.engine.protocol import BROKEN, DecodeRow, PrefillChunk
from serving.engine.rollout import Trial
from serving.engine.torch_engine import CachedModel, TorchEngine
from serving.http.service import ServedModel
from serving.policy.canary import CanaryRules, RollbackReason
from serving.versions import Versions, Wanted, WantedVersion, canary_rules
from tests.serving.http.server import serve_app
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


ENDPOINT = """
apiVersion: tideline/v1
kind: Endpoint
metadata: {name: e}
spec:
  model: m@1
  engine: {slots: 4}
  tiers: {keystroke: {slo: {latency: 60s, percentile: 95}}, interactive: {slo: {latency: 60s, percentile: 99}}}
  canary: {model: m@2, weight: 0.25, rollback: {error_rate: 0.03, burn_rate: 4, after: 2m}}
"""


def wanted(stable: Path, canary: Path | None = None, ref: str = "m@1") -> Wanted:
    def version(name: str, folder: Path) -> WantedVersion:
        return WantedVersion(ref=name, folder=str(folder), created_s=7)

    return Wanted(stable=version(ref, stable), canary=version("m@2", canary) if canary else None)


def endpoint() -> Endpoint:
    (loaded,) = load_text(ENDPOINT)
    assert isinstance(loaded, Endpoint)
    return loaded


@contextlib.contextmanager
def versions(folder: Path) -> Iterator[tuple[Versions, ServingProcess]]:
    spec = ReplicaSpec(endpoint=endpoint(), model=ServedModel(id="m", ref="m@1", created_s=0), folder=folder)
    started = build_replica(spec)
    assert started.versions is not None
    try:
        yield started.versions, started
    finally:
        started.close()


def test_wanted_versions_survive_the_way_through_serve() -> None:
    both = wanted(Path("a"), Path("b"))
    assert Wanted.from_json(json.loads(json.dumps(both.to_json()))) == both


def test_the_trial_has_the_files_rules_and_the_strictest_budget() -> None:
    rules = canary_rules(endpoint())
    assert (rules.weight, rules.error_rate, rules.burn_rate, rules.after_s) == (0.25, 0.03, 4.0, 120.0)
    assert rules.slo_budget == pytest.approx(0.01)


def test_a_trial_begins_ends_and_becomes_the_stable_version(folders: list[Path]) -> None:
    with versions(folders[0]) as (changing, started):
        changing.apply(wanted(folders[0], folders[1]))
        trial = started.replica.rollout.trial
        assert trial is not None
        assert trial.version == "m@2"
        changing.apply(wanted(folders[1], ref="m@2"))
        assert started.replica.rollout.trial is None
        with serve_app(started.app) as url:
            assert httpx.get(f"{url}/readyz").json() == {"status": "ok", "model": "m@2"}


def test_a_canary_that_cannot_be_loaded_is_taken_back_and_the_stable_version_answers(
    folders: list[Path], tmp_path: Path
) -> None:
    with versions(folders[0]) as (changing, started):
        changing.apply(wanted(folders[0], tmp_path / "missing"))
        assert changing.rolled_back is not None
        assert changing.rolled_back.reason is RollbackReason.DID_NOT_START
        assert started.replica.failure is None
        with pytest.raises(UserError, match="no model there"):
            changing.apply(wanted(tmp_path / "missing", ref="m@3"))
        with serve_app(started.app) as url:
            assert httpx.get(f"{url}/readyz").json()["model"] == "m@1"
