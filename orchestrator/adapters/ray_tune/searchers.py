"""Who draws: Optuna's tree-structured Parzen estimator through Tune, Tune's own domains at random, or the whole grid.

A random draw depends on the study's seed, the trial's number and the key alone. A learning one depends on everything
that was drawn and told before, in order, which is what the study's journal repeats.
"""

from __future__ import annotations

import random
import warnings
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from orchestrator.policy.study.space import grid, in_order, is_drawn
from orchestrator.policy.study.values import Config
from orchestrator.spec.search import Searcher, TpeSearcher
from orchestrator.spec.space import AnyParameter, Choice, Int, LogUniform, Space, Uniform
from orchestrator.study.events import Earlier


class Draws(Protocol):
    """A searcher. Values are in the metric's own direction."""

    def draw(self, trial: str, number: int) -> Config | None: ...

    def told(self, trial: str, step: int, value: float) -> None:
        """A trial was measured on its way."""

    def ended(self, trial: str, step: int, value: float | None, *, failed: bool) -> None:
        """A trial is over; `value` None: before its last step."""


def make_draws(
    searcher: Searcher, space: Space, *, mode: str, metric: str, seed: int, earlier: Sequence[Earlier]
) -> Draws:
    """The searcher that a study names."""
    match searcher.name:
        case "random":
            return RandomDraws(space, seed)
        case "grid":
            return GridDraws(space, seed)
        case "tpe":
            assert isinstance(searcher, TpeSearcher)
            return TpeDraws(searcher, space, mode=mode, metric=metric, seed=seed, earlier=earlier)


def domain(parameter: AnyParameter) -> Domain:
    """A parameter as Tune has it."""
    match parameter:
        case Uniform(min=low, max=high):
            return tune.uniform(low, high)
        case LogUniform(min=low, max=high):
            return tune.loguniform(low, high)
        case Int(min=low, max=high, step=step, log=log):
            if log:
                return tune.lograndint(low, high + 1)
            return tune.choice(list(range(low, high + 1, step))) if step > 1 else tune.randint(low, high + 1)
        case Choice(values=values):
            return tune.choice(list(values))


def plain(value: Any) -> Any:
    """numpy's numbers as Python's, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value


class _Deaf:
    """A searcher that does not learn."""

    def told(self, trial: str, step: int, value: float) -> None:
        pass

    def ended(self, trial: str, step: int, value: float | None, *, failed: bool) -> None:
        pass


class RandomDraws(_Deaf):
    """Independent draws from Tune's domains, each key of each trial with a generator of its own."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed

    def draw(self, trial: str, number: int) -> Config | None:
        config: dict[str, object] = {}
        for key in in_order(self._space):
            parameter = self._space[key]
            if is_drawn(parameter, config):
                config[key] = self._value(parameter, key, number)
        return config

    def _value(self, parameter: AnyParameter, key: str, number: int) -> object:
        if getattr(parameter, "min", 0) == getattr(parameter, "max", 1):
            return parameter.min  # type: ignore[union-attr]
        entropy = [self._seed, number, zlib.crc32(key.encode())]
        state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))
        if isinstance(parameter, Choice):  # numpy would turn values of mixed types into text
            return parameter.values[int(state.randint(len(parameter.values)))]
        return plain(domain(parameter).sample(random_state=state))


class GridDraws(_Deaf):
    """Every configuration once, in an order of the seed: a scheduler that compares trials with those before them stops
    nobody when each is better than the last, as along a sorted axis."""

    def __init__(self, space: Space, seed: int) -> None:
        self._configs = list(grid(space))
        random.Random(seed).shuffle(self._configs)

    def draw(self, trial: str, number: int) -> Config | None:
        return self._configs[number] if number < len(self._configs) else None


class TpeDraws:
    """Optuna through Tune's OptunaSearch, with the space as a function, so that conditions are Optuna's own."""

    def __init__(
        self,
        searcher: TpeSearcher,
        space: Space,
        *,
        mode: str,
        metric: str,
        seed: int,
        earlier: Sequence[Earlier],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._metric = space, metric
        self._choices = {key: _Names(one.values) for key, one in space.items() if isinstance(one, Choice)}
        storage = optuna.storages.InMemoryStorage()
        direction = "minimize" if mode == "min" else "maximize"
        study = optuna.create_study(storage=storage, study_name="study", direction=direction)
        for one in earlier:
            study.add_trial(self._as_trial(one))
        with warnings.catch_warnings():
            # Multivariate and grouped TPE are marked experimental: their interface may change, and we pin Optuna.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=searcher.startup_trials,
                multivariate=searcher.multivariate,
                group=searcher.multivariate and any(one.when for one in space.values()),
                constant_liar=True,  # trials run side by side: those under way count as bad, or all are drawn alike
                # Moved on by what is known: with an earlier study's own seed the first draws would be its first again.
                seed=(seed + len(earlier)) % 2**32,
            )
        self._search = OptunaSearch(
            self._suggest, metric=metric, mode=mode, sampler=sampler, storage=storage, study_name="study"
        )

    def draw(self, trial: str, number: int) -> Config | None:
        drawn = self._search.suggest(trial)
        assert drawn is not None
        return {key: self._choices[key].value(v) if key in self._choices else plain(v) for key, v in drawn.items()}

    def told(self, trial: str, step: int, value: float) -> None:
        self._search.on_trial_result(trial, {self._metric: value, "training_iteration": step})

    def ended(self, trial: str, step: int, value: float | None, *, failed: bool) -> None:
        """One that was stopped early is pruned in Optuna's words: ranked behind those that went further, and not taken
        for one whose final result was that bad or that good."""
        result = None if value is None else {self._metric: value, "training_iteration": step}
        self._search.on_trial_complete(trial, result, error=failed)

    def _suggest(self, trial: Any) -> dict[str, Any]:
        config: dict[str, Any] = {}
        real: dict[str, object] = {}
        for key in in_order(self._space):
            parameter = self._space[key]
            if is_drawn(parameter, real):
                config[key] = self._ask(trial, key, parameter)
                real[key] = self._choices[key].value(config[key]) if key in self._choices else config[key]
        return config

    def _ask(self, trial: Any, key: str, parameter: AnyParameter) -> Any:
        match parameter:
            case Uniform(min=low, max=high):
                return trial.suggest_float(key, low, high)
            case LogUniform(min=low, max=high):
                return trial.suggest_float(key, low, high, log=True)
            case Int(min=low, max=high, step=step, log=log):
                return trial.suggest_int(key, low, high, step=step, log=log)
            case Choice():
                return trial.suggest_categorical(key, self._choices[key].names)

    def _as_trial(self, one: Earlier) -> Any:
        """One that was stopped early is pruned in Optuna's words, as in `ended`."""
        params = {k: self._choices[k].name(v) if k in self._choices else v for k, v in one.config.items()}
        distributions = {key: self._distribution(key) for key in params}
        if one.cut_at is None:
            return optuna.trial.create_trial(params=params, distributions=distributions, value=one.value)
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            params=params,
            distributions=distributions,
            intermediate_values={one.cut_at: one.value},
        )

    def _distribution(self, key: str) -> Any:
        parameter = self._space[key]
        match parameter:
            case Uniform(min=low, max=high):
                return optuna.distributions.FloatDistribution(low, high)
            case LogUniform(min=low, max=high):
                return optuna.distributions.FloatDistribution(low, high, log=True)
            case Int(min=low, max=high, step=step, log=log):
                return optuna.distributions.IntDistribution(low, high, step=step, log=log)
            case Choice():
                return optuna.distributions.CategoricalDistribution(self._choices[key].names)


class _Names:
    """A choice's values by name: Optuna compares categories by equality and takes only plain ones, YAML holds any."""

    def __init__(self, values: Sequence[object]) -> None:
        self._values = list(values)
        self.names = [f"{number}: {value!r}" for number, value in enumerate(values)]

    def value(self, name: str) -> object:
        return self._values[self.names.index(name)]

    def name(self, value: object) -> str:
        return self.names[self._values.index(value)]
