"""A study's `Strategy` made of a searcher and one of Ray Tune's schedulers.

Tune's schedulers draw from Python's and numpy's global generators (population based training: whom to copy, which way
to nudge). Around every call these are seeded from the study's seed and the call's number and put back afterwards, so a
driver that repeats the calls gets the same answers.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from orchestrator.adapters.ray_tune.searchers import domain, make_draws, plain
from orchestrator.adapters.ray_tune.stand_in import StandInController, StandInTrial
from orchestrator.policy.study.space import clamp
from orchestrator.policy.study.values import Config, TrialState
from orchestrator.spec.search import AshaScheduler, HyperbandScheduler, MedianScheduler, NoScheduler, PbtScheduler
from orchestrator.spec.study import StudySpec
from orchestrator.study.events import Earlier
from orchestrator.study.ports import Choice, Copy, Verdict

_STEP, _RUNG = "step", "rung"


class TuneStrategy:
    """Searcher and scheduler of one study."""

    def __init__(self, spec: StudySpec, earlier: Sequence[Earlier] = ()) -> None:
        self._spec = spec
        self._grace = getattr(spec.scheduler, "grace_steps", 1)
        self._draws = make_draws(
            spec.searcher, spec.space, mode=spec.mode, metric=spec.metric, seed=spec.seed, earlier=earlier
        )
        self._scheduler = make_scheduler(spec)
        self._scheduler.set_search_properties(spec.metric, spec.mode)
        self._controller = StandInController(self._scheduler)
        self._calls = 0

    def draw(self, trial: str, number: int) -> Config | None:
        config = self._draws.draw(trial, number)
        if config is None:
            return None
        stand_in = StandInTrial(trial, dict(config))
        self._controller.trials[trial] = stand_in
        with self._seeded():
            self._scheduler.on_trial_add(self._controller, stand_in)
        stand_in.status = Trial.RUNNING
        return config

    def reported(self, trial: str, step: int, value: float) -> Verdict:
        stand_in = self._controller.trials[trial]
        stand_in.status = Trial.RUNNING
        self._draws.told(trial, step, value)
        configs = {name: one.config for name, one in self._controller.trials.items()}
        self._controller.stopped.clear()
        result = self._result(step, value)
        with self._seeded():
            answer = self._scheduler.on_trial_result(self._controller, stand_in, result)
        stand_in.last_result = result
        choice = self._choice(answer)
        if choice is Choice.STOP:
            stand_in.status = Trial.TERMINATED
            self._draws.ended(trial, step, None, failed=False)
        elif choice is Choice.PAUSE:
            stand_in.status = Trial.PAUSED
        stops = tuple(self._controller.stopped)
        for other in stops:
            self._draws.ended(other, 0, None, failed=False)
        return Verdict(choice=choice, stops=stops, copies=self._copies(configs))

    def _choice(self, answer: str) -> Choice:
        if answer == TrialScheduler.STOP:
            return Choice.STOP
        # A median needs company, and Tune's rule yields its place to get it; here places are the driver's business.
        if answer == TrialScheduler.CONTINUE or isinstance(self._scheduler, MedianStoppingRule):
            return Choice.GO_ON
        return Choice.PAUSE  # NOOP: the scheduler has paused it by itself

    def _copies(self, before: dict[str, dict[str, Any]]) -> tuple[Copy, ...]:
        """Trials whose configuration was replaced: they go on from another one's state."""
        copies = []
        for name, config in before.items():
            trial = self._controller.trials[name]
            if trial.config is not config:
                source = trial.run_metadata.checkpoint_manager._latest_checkpoint_result.checkpoint
                trial.config = {key: plain(clamp(self._spec.space[key], v)) for key, v in trial.config.items()}
                copies.append(Copy(trial=name, source=source, config=dict(trial.config)))
        return tuple(copies)

    def ended(self, trial: str, state: TrialState, step: int, value: float | None) -> None:
        stand_in = self._controller.trials[trial]
        if stand_in.is_finished():
            return
        failed = state is TrialState.FAILED
        stand_in.status = Trial.ERROR if failed else Trial.TERMINATED
        self._draws.ended(trial, step, value if state is TrialState.FINISHED else None, failed=failed)
        with self._seeded():
            if failed or value is None:
                self._scheduler.on_trial_error(self._controller, stand_in)
            else:
                self._scheduler.on_trial_complete(self._controller, stand_in, self._result(step, value))

    def resume_first(self, paused: Sequence[str]) -> str | None:
        chosen = self._scheduler.choose_trial_to_run(self._controller)
        return chosen.trial_id if chosen is not None and chosen.trial_id in paused else None

    def _result(self, step: int, value: float) -> dict[str, Any]:
        return {self._spec.metric: value, _STEP: step, _RUNG: step / self._grace, "training_iteration": step}

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        self._calls += 1
        python, numeric = random.getstate(), np.random.get_state()
        random.seed(f"{self._spec.seed}/{self._calls}")
        np.random.seed((self._spec.seed * 1_000_003 + self._calls) % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numeric)


def make_scheduler(spec: StudySpec) -> Any:
    """Tune's scheduler that a study names."""
    steps = spec.template.steps
    match spec.scheduler:
        case AshaScheduler(grace_steps=grace, reduction_factor=factor):
            return AsyncHyperBandScheduler(time_attr=_STEP, max_t=steps, grace_period=grace, reduction_factor=factor)
        case HyperbandScheduler(grace_steps=grace, reduction_factor=factor):
            # Tune counts brackets down to one unit of time: a unit is the shortest rung.
            return HyperBandScheduler(time_attr=_RUNG, max_t=max(1, steps // grace), reduction_factor=factor)
        case MedianScheduler(grace_steps=grace, min_trials=needed):
            return MedianStoppingRule(time_attr=_STEP, grace_period=grace, min_samples_required=needed)
        case PbtScheduler(interval_steps=every, quantile=quantile, resample=resample):
            # In step with each other: whom a trial is compared with must not depend on which node was faster.
            return PopulationBasedTraining(
                time_attr=_STEP,
                perturbation_interval=every,
                hyperparam_mutations={key: _mutation(one) for key, one in spec.space.items()},
                quantile_fraction=quantile,
                resample_probability=resample,
                log_config=False,
                synch=True,
            )
        case NoScheduler():
            return FIFOScheduler()


def _mutation(parameter: Any) -> Any:
    """Choices are nudged to a neighbour, numbers by a factor."""
    found = domain(parameter)
    return list(found.categories) if hasattr(found, "categories") else found
