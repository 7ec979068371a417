"""The bench of standing workers: who sits where, and what the driver hears of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.adapters.ray_train import bench as bench_module
from orchestrator.adapters.ray_train.bench import Bench


def worker(node: str) -> Any:
    return SimpleNamespace(actor=object(), metadata=SimpleNamespace(node_id=node))


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Workers that do not answer any more; ending an actor does nothing."""
    dead: list[Any] = []

    async def is_fit(worker: Any, addresses: Any) -> bool:
        return worker not in dead

    monkeypatch.setattr(bench_module, "_is_fit", is_fit)
    monkeypatch.setattr(bench_module, "_end", lambda actor: None)
    monkeypatch.setattr(bench_module, "raylet_addresses", dict)
    return dead


def test_the_room_of_a_dead_worker_is_not_ours_any_more_and_the_driver_hears_it(dead: list[Any]) -> None:
    """Or it would start a worker there and wait a minute for room that somebody else has taken."""
    told: list[dict[str, int]] = []
    bench = Bench({}, None, told.append)
    workers = [worker("a"), worker("a"), worker("b")]
    for one in workers:
        bench._seats[one.metadata.node_id].append(one)
    dead.append(workers[2])
    assert asyncio.run(bench.dismiss_unfit()) == {"b"}
    assert told == [{"a": 2}]
    assert bench.held() == {"a": 2}


def test_when_all_are_well_there_is_nothing_to_hear(dead: list[Any]) -> None:
    told: list[dict[str, int]] = []
    bench = Bench({}, None, told.append)
    bench._seats["a"].append(worker("a"))
    assert asyncio.run(bench.dismiss_unfit()) == set()
    assert told == []
