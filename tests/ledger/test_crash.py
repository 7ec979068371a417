"""kill -9 of a real process at every commit and every step of the outbox: the next process ends where none died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.ledger.check import check
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.states import Unit
from tests.ledger import crash
from tests.ledger.world import sqlite

_BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None


def _begin(folder: Path, point: str, times: int) -> int:
    """A process of its own (a fork: imports are paid for once); its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            crash.main(folder, point, times)
            code = 0
        finally:
            os._exit(code)
    return child


def _live(*lives: tuple[Path, str, int]) -> list[int]:
    """Processes side by side, each on a folder of its own; their wait statuses."""
    return [os.waitpid(child, 0)[1] for child in [_begin(*life) for life in lives]]


def _end(folder: Path) -> dict[str, object]:
    """Everything that must not depend on who died when: how jobs ended, their attempts, what was paid for them."""
    ledger = Ledger(sqlite(folder), holder="reader", clock=lambda: 0.0)
    try:
        with ledger.database.reading() as connection:
            assert check(connection) == []
        jobs = ledger.read.jobs()
        events = ledger.read.events(limit=100_000)
        orders = [json.loads(line) for line in (folder / "runner.jsonl").read_text().splitlines()]
        asked = [(line["id"], line["at_s"]) for line in orders if line["kind"] == "ask"]
        return {
            "jobs": {job.id: (job.state.value, job.attempt, job.failures, job.preemptions) for job in jobs},
            "submitted": sorted(event.job or "" for event in events if event.kind == "submitted"),
            "attempts": {
                job.id: [(row.cause.value, row.world_size, row.outcome) for row in ledger.read.attempts(job.id)]
                for job in jobs
            },
            "leases": ledger.read.leases(),
            "orders": sorted({order for order, _ in asked}),
            "money": ledger.read.balances(Unit.MICRO_USD),
            "steps": ledger.read.balances(Unit.ITERATIONS),
            "time": ledger.read.balances(Unit.DEVICE_MS),
        }
    finally:
        ledger.database.close()


@pytest.fixture(scope="module")
def uncrashed() -> Iterator[tuple[dict[str, object], dict[str, int]]]:
    with tempfile.TemporaryDirectory(dir=_BASE) as folder:
        assert _live((Path(folder), "count", 0)) == [0]
        yield _end(Path(folder)), json.loads((Path(folder) / "points.json").read_text())


def test_the_story_comes_by_every_kind_of_change(uncrashed) -> None:
    end, points = uncrashed
    kinds = ("apply", "submit", "pause", "resume", "cancel", "record", "commit", "sent", "schedule")
    assert set(points) == {f"{kind}:{when}-commit" for kind in kinds for when in ("before", "after")} | {"outbox:asked"}
    states = {job: found[0] for job, found in end["jobs"].items()}
    assert states == {
        "low": "succeeded",
        "high": "succeeded",
        "blue": "succeeded",
        "gone": "cancelled",
        crash.INSTANCE: "cancelled",
    }
    assert end["leases"] == []
    # Of 40 granted steps all were made, of 1,000 set aside for the cancelled one none.
    assert end["steps"] == {"sponsor:house": -5000, "purse:blue": 4960, "reserved:blue": 0, "spent:blue": 40}


def test_whoever_dies_at_a_point_the_end_is_the_same(uncrashed) -> None:
    """The first and the middle time of every point; the slow test below takes every time."""
    end, points = uncrashed
    _die_and_compare(end, [(point, times) for point in sorted(points) for times in {1, (points[point] + 1) // 2}])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whoever_dies_whenever_the_end_is_the_same(uncrashed) -> None:
    end, points = uncrashed
    _die_and_compare(end, [(point, times) for point in sorted(points) for times in range(1, points[point] + 1)])


def _die_and_compare(end: dict[str, object], deaths: list[tuple[str, int]]) -> None:
    """Two at a time: each death has a folder of its own."""
    for pair in (deaths[at : at + 2] for at in range(0, len(deaths), 2)):
        with contextlib.ExitStack() as stack:
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_BASE))) for _ in pair]
            died = _live(*((folder, *death) for folder, death in zip(folders, pair, strict=True)))
            lived = _live(*((folder, "", 0) for folder in folders))
            for folder, death, first, second in zip(folders, pair, died, lived, strict=True):
                assert os.WIFSIGNALED(first), f"nobody died at {death}"
                assert os.WTERMSIG(first) == signal.SIGKILL
                assert second == 0, f"the next process after {death} failed"
                found = _end(folder)
                for key, value in end.items():
                    assert found[key] == value, f"{key} after a death at {death}"
