"""A study's driver in a virtual world, with Tune's real searchers and schedulers."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.policy.study.values import TrialState
from orchestrator.study.events import Close
from orchestrator.study.journal import read_journal
from orchestrator.study.record import StudyRecord
from tests.study.worlds import World, drive, make_study


def test_every_trial_of_a_random_search_with_asha_ends(tmp_path: Path) -> None:
    world = World()
    record = drive(make_study(), tmp_path / "s", world)
    assert record.close_reason is Close.TRIALS
    assert len(record.trials) == 9
    assert all(trial.state.is_over for trial in record.trials.values())
    finished = [trial for trial in record.trials.values() if trial.state is TrialState.FINISHED]
    assert finished
    assert len(finished) < 9
    assert world.most_running <= 3


def test_the_journal_alone_gives_the_same_record(tmp_path: Path) -> None:
    record = drive(make_study(), tmp_path / "s", World())
    again = StudyRecord(read_journal(tmp_path / "s"))
    assert {name: (t.state, t.step, t.config) for name, t in again.trials.items()} == {
        name: (t.state, t.step, t.config) for name, t in record.trials.items()
    }
    assert again.device_s == pytest.approx(record.device_s)
