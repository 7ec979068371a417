"""What the fleet does about keepers that do not answer; Ray is played by references that never come."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from jobs.train.keeper.judge import Source
from jobs.train.keeper.values import Inventory
from orchestrator.adapters.ray_train import fleet as fleets
from orchestrator.adapters.ray_train.fleet import Fleet
from orchestrator.adapters.ray_train.keeper_host import KeeperHost

RUN = "run"


class Cluster:
    """Agents whose keepers answer at once or never; `waited` is what somebody waited for an answer that never came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: dict[str, bool]) -> None:
        self.asked: list[tuple[str, str, tuple[Any, ...]]] = []
        self.waited: list[float] = []
        monkeypatch.setattr(ray, "wait", self._wait)
        monkeypatch.setattr(ray, "get", lambda ref: ref[1])
        self.fleet = Fleet(config=None, run=RUN, mirrors=1)  # type: ignore[arg-type]
        for node, answers in nodes.items():
            self.fleet._agents[node] = SimpleNamespace(keeper_call=SimpleNamespace(remote=self._caller(node, answers)))
            self.fleet._facts[node] = SimpleNamespace(keeper=SimpleNamespace(address=f"tcp:{node}"))  # type: ignore[assignment]

    def _caller(self, node: str, answers: bool) -> Any:
        def call(method: str, *args: Any) -> Any:
            self.asked.append((node, method, args))
            inventory = Inventory(node=node, run=RUN, attempt=1, held=()) if method == "inventory" else None
            return (answers, inventory, len(self.asked))

        return call

    def _wait(self, refs: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        done = [ref for ref in refs if ref[0]]
        if len(done) < num_returns and timeout:
            self.waited.append(timeout)
        return done, [ref for ref in refs if not ref[0]]

    def begin(self, **changes: Any) -> None:
        facts: dict[str, Any] = {"choice": None, "storage_url": "", "checkpoint_every_s": 1.0, "domains": {}}
        facts |= {"first_checkpoint_in_s": 1.0, "committed_step": None, "keep_checkpoints": 1}
        self.fleet.begin_attempt(1, 2, **facts, **changes)


def test_a_keeper_that_hangs_is_not_waited_for_in_the_middle_of_an_attempt(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, {"a": True, "dead": False})
    cluster.begin()
    assert [node for node, *_ in cluster.asked] == ["a", "dead"]
    assert cluster.waited == []


def test_a_group_waits_for_its_own_keepers_alone(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, {"a": True, "dead": False})
    cluster.begin(members=["a"])
    assert cluster.waited == []
    cluster.begin(members=["a", "dead"])
    assert cluster.waited == [fleets.ANSWER_S]


def test_one_keeper_that_hangs_costs_no_others_answer(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, {"dead": False, "z": True})
    choice = cluster.fleet.newest(storage_step=7)
    assert choice is not None
    assert (choice.source, choice.step) == (Source.STORAGE, 7)
    assert cluster.waited == [fleets.ANSWER_S]


def test_a_node_that_the_run_has_left_is_asked_but_not_waited_for(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, {"left": False, "z": True})
    cluster.fleet._drained.add("left")
    assert cluster.fleet.newest(storage_step=None) is not None
    assert cluster.waited == [fleets.LEFT_S]


def test_nobody_is_there_to_ask(monkeypatch) -> None:
    assert Cluster(monkeypatch, {}).fleet.newest(storage_step=3) is None


def test_an_older_telling_that_comes_late_says_nothing() -> None:
    host = object.__new__(KeeperHost)
    begun: list[str] = []
    host._listening, host._heard, host._token = threading.Lock(), 0, b""
    host._transport = SimpleNamespace(set_addresses=lambda addresses: None)  # type: ignore[assignment]
    host._keeper = SimpleNamespace(let_ranks_read_peers=lambda *_: None, begin_attempt=begun.append)  # type: ignore[assignment]
    host.begin_attempt("newer", {}, 2)  # type: ignore[arg-type]
    host.begin_attempt("older", {}, 1)  # type: ignore[arg-type]
    assert begun == ["newer"]
