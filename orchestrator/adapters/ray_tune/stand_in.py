"""What Ray Tune's schedulers ask of a controller and of a trial, without processes: the calls they make, as values.

Follows Tune 2.60 (`tune/schedulers/*.py`, `tune/execution/tune_controller.py`); the contract test holds every scheduler
to it, so a new Ray version that asks for more fails there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial

ENDED = frozenset({Trial.TERMINATED, Trial.ERROR})


@dataclass(slots=True)
class _CheckpointConfig:
    num_to_keep: None = None


@dataclass(slots=True)
class _CheckpointManager:
    checkpoint_config: _CheckpointConfig = field(default_factory=_CheckpointConfig)
    # Population based training puts here from which trial's state this one goes on.
    _latest_checkpoint_result: Any = None


@dataclass(slots=True)
class _RunMetadata:
    checkpoint_manager: _CheckpointManager = field(default_factory=_CheckpointManager)


@dataclass(slots=True)
class _TemporaryState:
    saving_to: None = None


@dataclass(eq=False)
class StandInTrial:
    """A trial as schedulers see it. Its checkpoint is a mark: the name of the trial whose state it is."""

    trial_id: str
    config: dict[str, Any]
    status: str = Trial.PENDING
    experiment_tag: str = ""
    is_saving: bool = False
    last_result: dict[str, Any] = field(default_factory=dict)
    evaluated_params: dict[str, Any] = field(default_factory=dict)
    run_metadata: _RunMetadata = field(default_factory=_RunMetadata)
    temporary_state: _TemporaryState = field(default_factory=_TemporaryState)

    @property
    def checkpoint(self) -> str:
        return self.trial_id

    def is_finished(self) -> bool:
        return self.status in ENDED

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag

    def __repr__(self) -> str:
        return self.trial_id


class StandInController:
    """Answers schedulers, and remembers what they did to other trials: `stopped`."""

    search_alg = None

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.trials: dict[str, StandInTrial] = {}
        self.stopped: list[str] = []

    def get_trials(self) -> list[StandInTrial]:
        return list(self.trials.values())

    def get_live_trials(self) -> list[StandInTrial]:
        return [trial for trial in self.trials.values() if not trial.is_finished()]

    def stop_trial(self, trial: StandInTrial, error: bool = False) -> None:
        """End a trial that waits, as the controller does: the scheduler hears of it, too."""
        if trial.is_finished():
            return
        self._scheduler.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED
        self.stopped.append(trial.trial_id)

    def pause_trial(self, trial: StandInTrial, should_checkpoint: bool = True) -> None:
        trial.status = Trial.PAUSED

    def _schedule_trial_save(self, trial: StandInTrial, result: Any = None) -> str:
        """Every trial has saved when it reports."""
        return trial.trial_id
