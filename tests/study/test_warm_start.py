"""Starting warm: what is learned from, what is refused, and that taking up again learns from the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.policy.study.values import TrialState
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.journal import read_journal
from orchestrator.study.record import StudyRecord
from orchestrator.study.warm_start import begins_with, earlier_trials
from tests.study.worlds import Killed, World, drive, make_study

TPE, WARM = "{name: tpe, startup_trials: 4}", "  warm_start: [before]"


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with one study of eight finished trials."""
    before = make_study(name="before", scheduler="{name: none}", budget="{trials: 8}", seed=3)
    drive(before, tmp_path / "before", World())
    return tmp_path


def test_finished_trials_are_learned_from_and_change_the_draws(studies: Path) -> None:
    study = make_study(searcher=TPE, more=WARM)
    earlier = earlier_trials(study, studies)
    assert [one.trial for one in earlier] == [f"t{number:04d}" for number in range(1, 9)]
    warm = drive(study, studies / "warm", World(), earlier=earlier)
    cold = drive(make_study(searcher=TPE), studies / "cold", World())
    assert [t.config for t in warm.searched] != [t.config for t in cold.searched]


def test_trials_that_were_stopped_early_are_learned_from_and_the_first_draws_are_not_made_again(tmp_path: Path) -> None:
    before = drive(make_study(name="before", searcher=TPE), tmp_path / "before", World())
    stopped = {trial.trial: trial.measured_at for trial in before.searched if trial.state is TrialState.STOPPED}
    study = make_study(searcher=TPE, more=WARM)
    earlier = earlier_trials(study, tmp_path)
    assert stopped
    assert {one.trial: one.cut_at for one in earlier if one.cut_at is not None} == stopped
    assert len(earlier) == 9
    warm = drive(study, tmp_path / "warm", World(), earlier=earlier)
    drawn = [trial.config for trial in before.searched]
    assert not [trial.trial for trial in warm.searched if trial.config in drawn]


def test_taking_up_again_learns_from_what_it_began_with_though_the_earlier_study_is_gone(studies: Path) -> None:
    study = make_study(searcher=TPE, more=WARM, concurrency_max=1, budget="{trials: 8}")
    whole = drive(study, studies / "whole", World(), earlier=earlier_trials(study, studies))
    world = World(dies_after_polls=60)
    with pytest.raises(Killed):
        drive(study, studies / "cut", world, earlier=begins_with(study, StudyRecord(), studies))
    shutil.rmtree(studies / "before")
    known = begins_with(study, StudyRecord(read_journal(studies / "cut")), studies)
    cut = drive(study, studies / "cut", world.restarted(), earlier=known)
    assert [t.config for t in cut.trials.values()] == [t.config for t in whole.trials.values()]
    assert len(known) == 8


def test_a_study_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study 'before'") as caught:
        earlier_trials(make_study(searcher=TPE, more=WARM), tmp_path)
    assert caught.value.code is ExitCode.UNKNOWN


def test_a_study_of_another_space_has_nothing_to_tell_and_says_so(studies: Path) -> None:
    other = make_study(searcher=TPE, space="{optimizer.weight_decay: {type: uniform, min: 0.0, max: 1.0}}", more=WARM)
    with pytest.raises(UserError, match="of its 8 trials 8 have a result, and none of these lies in this space"):
        earlier_trials(other, studies)


def test_a_study_that_wanted_the_most_teaches_nothing_to_one_that_wants_the_least(studies: Path) -> None:
    study = make_study(searcher=TPE, more=WARM)
    upside_down = study.model_copy(update={"spec": study.spec.model_copy(update={"mode": "max"})})
    with pytest.raises(UserError, match="looked for the min of bits_per_byte, this one for the max"):
        earlier_trials(upside_down, studies)
