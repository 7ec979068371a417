"""The TrainJob that a study leads to: its template with the best trial's values, and where they came from."""

from __future__ import annotations

import math

import yaml

from orchestrator.policy.study.space import apply
from orchestrator.spec import Study, TrainJob
from orchestrator.spec.base import Metadata
from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.spec.names import parse_name
from orchestrator.spec.problems import BadValueError
from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.record import StudyRecord, TrialRecord
from orchestrator.study.summary import repeats_of

_HASH_DIGITS = 12
_SUFFIX = "-best"
_LONGEST_NAME = 63


def usual_name(study: str) -> str:
    """What the job is called where nobody says: also of a study's second run, and of a long name."""
    stem = study.partition("~")[0].replace(".", "-")
    return stem[: _LONGEST_NAME - len(_SUFFIX)].rstrip("-") + _SUFFIX


def promoted(study: Study, record: StudyRecord, trial: TrialRecord, name: str) -> TrainJob:
    """Raises: UserError: for a trial without a result, and for one of a population, of which no single configuration
    made its result (conflict); for a name that is none."""
    value = trial.value(study.spec.metric)
    if value is None or not math.isfinite(value):
        found = "missing" if value is None else value
        raise UserError(
            f"{trial.trial} has no result to repeat: its {study.spec.metric} is {found}",
            code=ExitCode.CONFLICT,
            where=study.metadata.name,
            next_step=f"'tide study compare {study.metadata.name}' shows the best",
        )
    if trial.changes:
        raise UserError(
            f"{trial.trial} changed its parameters on the way, so no job with one set of them repeats it",
            code=ExitCode.CONFLICT,
            where=study.metadata.name,
            next_step="'tide study export' has the schedule of its changes",
        )
    metadata, name = study.metadata, _checked(name)
    labels = {**metadata.labels, "study": metadata.name, "trial": trial.trial}
    made = Metadata(name=name, tenant=metadata.tenant, labels=labels, description=_lineage(study, record, trial))
    return TrainJob(metadata=made, spec=_pinned(apply(study.spec.template, trial.config), record.dataset_hash))


def _checked(name: str) -> str:
    try:
        return parse_name(name)
    except BadValueError as error:
        raise UserError(f"{error.what}; {error.want}", where="--name", next_step=error.next_step) from None


def _pinned(spec: TrainJobSpec, dataset_hash: str) -> TrainJobSpec:
    """The job on the data that the study saw, though its latest version may be another one by now."""
    if not dataset_hash:
        return spec
    name = spec.data.dataset.partition("@")[0]
    data = spec.data.model_copy(update={"dataset": f"{name}@{dataset_hash[:_HASH_DIGITS]}"})
    return spec.model_copy(update={"data": data})


def to_yaml(job: TrainJob) -> str:
    """The job as a file, only what was set in it."""
    return yaml.safe_dump(job.to_document(), sort_keys=False, allow_unicode=True)


def _lineage(study: Study, record: StudyRecord, trial: TrialRecord) -> str:
    metric = study.spec.metric
    results = repeats_of(record, trial, metric)
    value = trial.value(metric)
    runs = f", mean {sum(results) / len(results):.5g} over {len(results)} seeds" if len(results) > 1 else ""
    return (
        f"From study {study.metadata.name}, trial {trial.trial}: "
        f"{metric} {value:.5g} after {trial.measured_at} steps{runs}; "
        f"data {record.dataset_hash[:_HASH_DIGITS]}"
    )
