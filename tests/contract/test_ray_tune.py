"""Ray Tune's searchers and schedulers over our stand-ins: what they ask for is there, and the same calls get the same
answers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from orchestrator.adapters.ray_tune.searchers import RandomDraws
from orchestrator.adapters.ray_tune.strategy import TuneStrategy
from orchestrator.policy.study.rungs import next_report, report_steps
from orchestrator.policy.study.values import TrialState
from orchestrator.study.events import Earlier
from orchestrator.study.ports import Choice, Verdict
from orchestrator.study.warm_start import fits
from tests.study.worlds import make_study, quality

SCHEDULERS = {
    "asha": "{name: asha, grace_steps: 10, reduction_factor: 3}",
    "hyperband": "{name: hyperband, grace_steps: 10, reduction_factor: 3}",
    "median": "{name: median, grace_steps: 20, min_trials: 2}",
    "pbt": "{name: pbt, interval_steps: 15}",
    "none": "{name: none}",
}
MIXED = (
    "{optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-1}, args.layers: {type: choice, values: [1, two, 3.0]}, "
    "args.d_model: {type: int, min: 16, max: 64, step: 16, when: {args.layers: [1]}}}"
)


def _play(scheduler: str, searcher: str, count: int = 9) -> list[tuple[str, int, Verdict]]:
    """Trials side by side, each report answered; ends when all are over or wait for each other."""
    spec = make_study(scheduler=scheduler, searcher=searcher, seed=5).spec
    strategy, reports = TuneStrategy(spec), report_steps(spec)
    configs, step, said = {}, {}, []
    for number in range(count):
        name = f"t{number}"
        configs[name], step[name] = strategy.draw(name, number), 0
    running, paused = list(configs), []
    while running or paused:
        if not running:
            name = strategy.resume_first(paused) or paused[0]
            paused.remove(name)
            running.append(name)
        name = running.pop(0)
        step[name] = next_report(reports, step[name]) or reports[-1]
        value = quality(configs[name] or {}, step[name])
        if step[name] == reports[-1]:
            strategy.ended(name, TrialState.FINISHED, step[name], value)
            continue
        verdict = strategy.reported(name, step[name], value)
        said.append((name, step[name], verdict))
        for copy in verdict.copies:
            configs[copy.trial], step[copy.trial] = copy.config, step[copy.source]
        paused = [one for one in paused if one not in verdict.stops]
        if verdict.choice is not Choice.STOP:
            (running if verdict.choice is Choice.GO_ON else paused).append(name)
    return said


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_plays_to_the_end_and_repeats_itself(scheduler: str) -> None:
    first = _play(scheduler, "{name: random}")
    random.seed(99)  # somebody else's draws change nothing
    np.random.seed(99)
    assert _play(scheduler, "{name: random}") == first
    assert first


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_schedulers_that_stop_early_stop_the_worse(name: str) -> None:
    said = _play(SCHEDULERS[name], "{name: random}")
    stopped = {trial for trial, _, verdict in said if verdict.choice is Choice.STOP}
    stopped |= {other for _, _, verdict in said for other in verdict.stops}
    assert stopped
    assert len(stopped) < 9


def test_a_population_takes_over_better_states() -> None:
    copies = [copy for _, _, verdict in _play(SCHEDULERS["pbt"], "{name: random}") for copy in verdict.copies]
    assert copies
    assert all(1e-4 <= copy.config["optimizer.lr"] <= 1e-1 for copy in copies)


@pytest.mark.parametrize("searcher", ["{name: random}", "{name: tpe, startup_trials: 3}"])
def test_draws_keep_conditions_types_and_bounds(searcher: str) -> None:
    spec = make_study(space=MIXED, searcher=searcher).spec
    strategy = TuneStrategy(spec)
    for number in range(20):
        config = strategy.draw(f"t{number}", number)
        assert config is not None
        assert fits(spec.space, config)
        strategy.ended(f"t{number}", TrialState.FINISHED, 90, quality(config, 90))


def test_a_blind_draw_depends_on_seed_number_and_key_alone() -> None:
    spec = make_study(space=MIXED).spec
    first, again, other = RandomDraws(spec.space, 1), RandomDraws(spec.space, 1), RandomDraws(spec.space, 2)
    assert [again.draw("x", n) for n in (3, 1)] == [first.draw("y", n) for n in (3, 1)]
    assert first.draw("x", 0) != other.draw("x", 0)


def test_a_grid_draws_everything_once_in_an_order_of_the_seed() -> None:
    space = "{optimizer.weight_decay: {type: choice, values: [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}"
    drawn = {}
    for seed in (0, 1):
        strategy = TuneStrategy(make_study(space=space, searcher="{name: grid}", seed=seed).spec)
        drawn[seed] = [strategy.draw(f"t{n}", n) for n in range(8)]
        assert drawn[seed][7] is None
        values = sorted(float(str(one["optimizer.weight_decay"])) for one in drawn[seed][:7] if one)
        assert values == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert drawn[0] != drawn[1]


def test_a_learning_searcher_finds_better_values_than_its_blind_start() -> None:
    spec = make_study(searcher="{name: tpe, startup_trials: 10}", seed=1).spec
    strategy, values = TuneStrategy(spec), []
    for number in range(40):
        config = strategy.draw(f"t{number}", number) or {}
        values.append(quality(config, 90))
        strategy.ended(f"t{number}", TrialState.FINISHED, 90, values[-1])
    assert sum(values[30:]) / 10 < sum(values[:10]) / 10


def test_earlier_trials_spare_the_blind_start() -> None:
    configs = [{"optimizer.lr": 10.0**-e} for e in range(1, 5)]
    earlier = [Earlier(study="before", trial="t1", config=one, value=quality(one, 90)) for one in configs]
    spec = make_study(searcher="{name: tpe, startup_trials: 4}", seed=1).spec
    strategy, values = TuneStrategy(spec, earlier), []
    for number in range(12):
        config = strategy.draw(f"t{number}", number) or {}
        values.append(quality(config, 90))
        strategy.ended(f"t{number}", TrialState.FINISHED, 90, values[-1])
    blind = RandomDraws(spec.space, 1)
    assert sum(values) < sum(quality(blind.draw("x", n) or {}, 90) for n in range(12))
