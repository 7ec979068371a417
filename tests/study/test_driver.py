"""A study's driver in a virtual world, with Tune's real searchers and schedulers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.policy.study.values import Rates, TrialState
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.events import Close
from orchestrator.study.journal import Journal, is_driven, read_journal
from orchestrator.study.ports import Start
from orchestrator.study.record import StudyRecord
from orchestrator.study.standing import ranked
from tests.study.worlds import Killed, World, curve_of, drive, make_study

RATES = Rates(usd_per_device_hour=36.0, watts_per_device=1000.0)


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


def _kept(record: StudyRecord) -> dict[str, object]:
    return {
        name: (trial.state, trial.step, trial.config, [(one.step, one.metrics) for one in trial.measures])
        for name, trial in record.trials.items()
    }


ASHA = "{name: asha, grace_steps: 10, reduction_factor: 3}"
TPE, RANDOM = "{name: tpe, startup_trials: 3}", "{name: random}"


@pytest.mark.parametrize(
    ("searcher", "scheduler"),
    [
        (TPE, ASHA),
        (RANDOM, "{name: hyperband, grace_steps: 10, reduction_factor: 3}"),
        (TPE, "{name: median, grace_steps: 20, min_trials: 2}"),
        (RANDOM, "{name: pbt, interval_steps: 20}"),
        (RANDOM, "{name: none}"),
    ],
)
def test_a_driver_killed_again_and_again_loses_no_trial_and_repeats_none(
    searcher: str, scheduler: str, tmp_path: Path
) -> None:
    study = make_study(scheduler=scheduler, searcher=searcher, concurrency_max=2, budget="{trials: 6}")
    world, ended, reports = World(), {}, []
    for polls in range(1, 400, 13):
        world.dies_after_polls, world.polls = polls, 0
        try:
            record = drive(study, tmp_path / "s", world)
            break
        except Killed:
            world = world.restarted()
            record = StudyRecord(read_journal(tmp_path / "s"))
            now_over = {name: _kept(record)[name] for name, t in record.trials.items() if t.state.is_over}
            assert {name: now_over[name] for name in ended} == ended
            ended = now_over
    assert record.close_reason is Close.TRIALS
    assert len(record.searched) == 6
    for trial in record.trials.values():
        assert trial.state.is_over
        reports = [one.step for one in trial.measures]
        if not trial.changes:
            assert reports == sorted(set(reports))
    after_end = [start.trial for start in world.starts]
    assert set(after_end) == set(record.trials)


def test_taking_up_again_draws_what_an_undisturbed_search_draws(tmp_path: Path) -> None:
    study = make_study(searcher="{name: tpe, startup_trials: 3}", concurrency_max=1, budget="{trials: 8}")
    whole = drive(study, tmp_path / "whole", World())
    world = World(dies_after_polls=60)
    with pytest.raises(Killed):
        drive(study, tmp_path / "cut", world)
    cut = drive(study, tmp_path / "cut", world.restarted())
    assert [t.config for t in cut.trials.values()] == [t.config for t in whole.trials.values()]
    assert _kept(cut) == _kept(whole)


def test_a_lost_attempt_goes_on_from_its_last_state(tmp_path: Path) -> None:
    study = make_study(scheduler="{name: none}", budget="{trials: 1}")
    world = World(lose_at=(5.0,))
    record = drive(study, tmp_path / "s", world)
    (trial,) = record.trials.values()
    assert trial.state is TrialState.FINISHED
    assert trial.losses == 1
    assert trial.attempts == 2
    assert [one.step for one in trial.measures] == list(range(9, 91, 9))


def test_a_report_that_was_not_heard_is_made_again_from_the_saved_state(tmp_path: Path) -> None:
    study = make_study(scheduler="{name: none}", budget="{trials: 1}")
    record = drive(study, tmp_path / "s", World(lose_reports=(9, 54, 90)))
    (trial,) = record.trials.values()
    assert trial.state is TrialState.FINISHED
    assert [one.step for one in trial.measures] == list(range(9, 91, 9))
    assert trial.attempts == 4
    assert trial.lost_steps == 0


def test_a_lease_that_shrinks_and_grows_pauses_and_enlarges_trials(tmp_path: Path) -> None:
    study = make_study(workers_max=4, concurrency_max=2, steps=900, budget="{trials: 2}", scheduler="{name: none}")
    world = World(workers_at=lambda now_s: 1 if 20 < now_s < 60 else 4)
    record = drive(study, tmp_path / "s", world)
    assert all(trial.state is TrialState.FINISHED for trial in record.trials.values())
    assert world.most_workers <= 4
    assert {start.workers for start in world.starts} > {1}
    assert any(trial.attempts > 1 for trial in record.trials.values())


def test_a_paused_trial_costs_nothing(tmp_path: Path) -> None:
    study = make_study(budget="{trials: 1}", scheduler="{name: none}")
    short = drive(study, tmp_path / "a", World(workers_at=lambda now_s: 0 if 10 < now_s < 20 else 1))
    long = drive(study, tmp_path / "b", World(workers_at=lambda now_s: 0 if 10 < now_s < 5000 else 1))
    assert long.device_s == pytest.approx(short.device_s, abs=1.0)


def test_an_unknown_metric_ends_the_study_after_the_first_report_and_names_the_known_ones(tmp_path: Path) -> None:
    world = World(curve=lambda start, step: {"loss": 1.0, "perplexity": 2.0})
    with pytest.raises(UserError, match="loss, perplexity") as refused:
        drive(make_study(), tmp_path / "s", world)
    assert refused.value.code is ExitCode.INVALID
    assert refused.value.where == "spec.metric"
    assert StudyRecord(read_journal(tmp_path / "s")).close_reason is Close.FAILED


def test_a_loss_that_is_no_number_fails_the_trial_and_not_the_study(tmp_path: Path) -> None:
    def curve(start: Start, step: int) -> dict[str, float]:
        return {"bits_per_byte": math.nan if start.trial == "t0002" else curve_of(start, step)}

    record = drive(make_study(), tmp_path / "s", World(curve=curve))
    assert record.trials["t0002"].state is TrialState.FAILED
    assert "nan" in record.trials["t0002"].detail
    assert record.close_reason is Close.TRIALS


def test_trials_that_all_fail_end_the_study(tmp_path: Path) -> None:
    study = make_study(space="{optimizer.warmup_steps: {type: int, min: 500, max: 900}}", budget="{trials: 50}")
    with pytest.raises(UserError) as refused:
        drive(study, tmp_path / "s", World(curve=lambda start, step: {"bits_per_byte": math.nan}))
    assert refused.value.code is ExitCode.JOB_FAILED


def test_the_best_run_again_with_other_seeds(tmp_path: Path) -> None:
    record = drive(make_study(more="  repeat: {top: 2, seeds: 3}"), tmp_path / "s", World())
    repeats = [trial for trial in record.trials.values() if trial.repeat_of]
    finished = [t for t in record.searched if t.state is TrialState.FINISHED]
    assert len(repeats) == 2 * min(2, len(finished))
    assert {trial.seed for trial in repeats} == {1, 2}
    assert all(trial.state is TrialState.FINISHED for trial in repeats)
    best = ranked(record, "bits_per_byte", "min")[0]
    assert best.trial in {trial.repeat_of for trial in repeats}


def test_a_search_that_does_not_pay_ends(tmp_path: Path) -> None:
    more = '  stop: {worth_usd: "0.001", after_trials: 4}'
    record = drive(make_study(budget="{trials: 200}", more=more), tmp_path / "s", World(), RATES)
    assert record.close_reason is Close.WORTH
    assert 4 <= len(record.searched) < 200


def test_a_population_copies_states_and_stays_in_its_space(tmp_path: Path) -> None:
    world = World()
    study = make_study(scheduler="{name: pbt, interval_steps: 15}", budget="{trials: 6}", concurrency_max=2)
    record = drive(study, tmp_path / "s", world)
    assert world.copied
    assert all(trial.state is TrialState.FINISHED for trial in record.trials.values())
    assert all(1e-4 <= trial.config["optimizer.lr"] <= 1e-1 for trial in record.trials.values())
    for trial in record.trials.values():
        for change in trial.changes:
            assert change.source != trial.trial
    first = {name: _kept(record)[name] for name in record.trials}
    again = drive(study, tmp_path / "again", World())
    assert _kept(again) == first


def test_asking_to_stop_saves_and_going_on_finishes(tmp_path: Path) -> None:
    world, asked = World(), []
    record = drive(make_study(), tmp_path / "s", world, wants_stop=lambda: 1 if world.polls > 30 else 0)
    assert record.close_reason is Close.INTERRUPTED
    assert not list(record.open_attempts())
    asked.append(record.device_s)
    again = drive(make_study(), tmp_path / "s", world)
    assert again.close_reason is Close.TRIALS
    assert again.device_s > asked[0]


def test_two_drivers_cannot_run_one_study(tmp_path: Path) -> None:
    with Journal(tmp_path / "s"), pytest.raises(UserError) as refused, Journal(tmp_path / "s"):
        pass
    assert refused.value.code is ExitCode.CONFLICT
    assert not is_driven(tmp_path / "s")
