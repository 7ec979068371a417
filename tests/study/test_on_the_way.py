"""States of a trial between two reports: how often, and which of them stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.study.on_the_way import SHARE, UNMEASURED_S, OnTheWay
from jobs.train.messages import Message
from jobs.train.saving import RunFacts, Saver
from jobs.train.state import FP32, FileStorage, Piece, ShardView, StorageError, steps
from jobs.train.storage_sink import StorageSink

REPORTS = frozenset({27, 81})


class Trial:
    """A trial of one rank over real storage, at a time that saving moves."""

    def __init__(self, root: Path, *, save_s: float = 0.5) -> None:
        self.storage, self.now_s, self.save_s = FileStorage(root), 0.0, save_s
        self.states = OnTheWay("r", self.storage, REPORTS, 0, self._clock)
        weight = torch.zeros(10)
        piece = Piece("weight", FP32, 0, 10, weight)
        view = ShardView(
            rank=0, world_size=1, zero_stage=1, precision="fp32", shapes={"weight": (10,)}, owned=(piece,),
            wanted=(piece,),
        )  # fmt: skip
        facts = RunFacts(run="r", attempt=0, rank=0, world_size=1, task={"task": "m:f", "args": {}}, dataset_hash="d")
        sent: list[Message] = []
        sink = StorageSink(self.storage, torch.distributed.HashStore(), 0, 1, sent.append)
        self._saver = Saver(facts, lambda: view, self.states.through(sink), sent.append)

    def _clock(self) -> float:
        self.now_s += self.save_s
        return self.now_s

    def save(self, step: int) -> list[int]:
        self._saver.save(step, {}, final=False)
        self._saver.finish()
        return steps(self.storage, "r")


def test_of_the_states_on_the_way_only_the_newest_stays_and_those_of_reports_stay_all(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    kept = [trial.save(step) for step in (10, 20, 27, 40, 50, 81)]
    assert kept == [[10], [20], [27], [27, 40], [27, 50], [27, 81]]


def test_what_a_killed_attempt_has_left_on_the_way_goes_with_the_next_state(tmp_path: Path) -> None:
    before = Trial(tmp_path)
    for step in (27, 40):
        before.save(step)
    assert Trial(tmp_path).save(60) == [27, 60]


def test_a_storage_that_deletes_nothing_for_a_while_costs_no_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: FileStorage, names: object) -> None:
        raise StorageError("is read-only")

    trial = Trial(tmp_path)
    trial.save(10)
    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "delete", refuses)
        assert trial.save(20) == [10, 20]
    assert "is read-only" in capsys.readouterr().err
    assert trial.save(27) == [27]


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path: Path) -> None:
    trial = Trial(tmp_path, save_s=0.5)
    assert trial.states.every_s(600.0) == UNMEASURED_S / SHARE
    trial.save(10)
    assert trial.states.every_s(600.0) == 0.5 / SHARE
    assert trial.states.every_s(6.0) == 6.0
    assert trial.states.every_s(0.0) == 0.0
