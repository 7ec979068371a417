"""A study on real Ray: six trials, one killed node, a killed driver, and a second one that goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.data import pack
from orchestrator.policy.study.values import TrialState
from orchestrator.study.events import Close, Ending, Event, Reported
from orchestrator.study.journal import is_driven, read_journal
from orchestrator.study.record import StudyRecord
from tests.cluster.ray_train_runs import ROOT
from tests.cluster.study_driver import study

pytestmark = pytest.mark.cluster


def _drive(home: Path, kill_node_after: int, die_after: int) -> int:
    command = [sys.executable, "-m", "tests.cluster.study_driver", str(home), str(kill_node_after), str(die_after)]
    with (home / "driver.log").open("ab") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=240).returncode
    if code == -signal.SIGKILL:  # what a killed driver's cluster leaves behind
        shutil.rmtree((home / "root").read_text(), ignore_errors=True)
    return code


def _reports(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.trial, event.step) for event in events if isinstance(event, Reported)]


def test_a_search_survives_a_killed_node_and_a_killed_driver(tmp_path: Path) -> None:
    pack(ROOT / "orchestrator", name="corpus", home=tmp_path)
    folder = tmp_path / "studies" / "six"
    assert _drive(tmp_path, kill_node_after=1, die_after=6) == -signal.SIGKILL, (tmp_path / "driver.log").read_text()
    before = read_journal(folder)
    assert not is_driven(folder)
    assert len(_reports(before)) >= 6
    over = {name for name, trial in StudyRecord(before).trials.items() if trial.state.is_over}

    assert _drive(tmp_path, kill_node_after=0, die_after=0) == 0, (tmp_path / "driver.log").read_text()
    events = read_journal(folder)
    record = StudyRecord(events)
    assert events[: len(before)] == before
    assert record.close_reason is Close.TRIALS
    assert len(record.trials) == study().spec.budget.trials
    assert all(trial.state.is_over for trial in record.trials.values())
    assert any(trial.state is TrialState.FINISHED for trial in record.trials.values())
    # Nothing is measured twice, no ended trial runs again, and the node's death was an attempt that was lost.
    assert len(set(_reports(events))) == len(_reports(events))
    begun_later = {event.trial for event in events[len(before) :] if type(event).__name__ == "Began"}
    assert not begun_later & over
    endings = [event.why for event in events if type(event).__name__ == "AttemptOver"]
    assert Ending.LOST in endings
    assert Ending.ABANDONED in endings
