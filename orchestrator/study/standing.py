"""How a study's trials stand to each other."""

from __future__ import annotations

import math

from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.record import StudyRecord, TrialRecord


def devices_per_worker(template: TrainJobSpec) -> float:
    """What a worker counts as in device-hours: its GPUs, else one."""
    return template.workers.resources.GPU or 1.0


def ranked(record: StudyRecord, metric: str, mode: str) -> list[TrialRecord]:
    """Searched trials with a result, best first: those that came further stand before those that were stopped."""
    sign = 1.0 if mode == "min" else -1.0
    known = [
        (trial, value)
        for trial in record.searched
        if (value := trial.value(metric)) is not None and math.isfinite(value) and trial.last is not None
    ]
    known.sort(key=lambda pair: (-pair[0].measures[-1].step, sign * pair[1], pair[0].trial))
    return [trial for trial, _ in known]
