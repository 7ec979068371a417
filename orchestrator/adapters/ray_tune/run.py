"""One study on the Ray cluster this process is connected to, from its spec to its record."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.data.folders import write_durably
from jobs.train.state.open_storage import open_storage
from orchestrator.adapters.own_code import pinned
from orchestrator.adapters.ray_train.prepare import Prepared, prepare
from orchestrator.adapters.ray_tune.seating import Allotment
from orchestrator.adapters.ray_tune.strategy import TuneStrategy
from orchestrator.adapters.ray_tune.trials import RayTrials, TrialsConfig
from orchestrator.policy.study.values import Rates
from orchestrator.spec import Study, TrainJob
from orchestrator.spec.base import Metadata
from orchestrator.spec.job_parts import Runtime
from orchestrator.spec.train_job import TrainJobSpec
from orchestrator.study.check import require_runnable, require_same, require_same_data
from orchestrator.study.driver import Driver, Settings
from orchestrator.study.events import Event
from orchestrator.study.journal import Journal
from orchestrator.study.record import StudyRecord
from orchestrator.study.warm_start import begins_with

EVALUATION_SAMPLES = 256
_CODE_NAME = "code.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How this process runs a study. `allotment`: None = on all that is free."""

    rates: Rates = field(default_factory=Rates)
    evaluation_samples: int = EVALUATION_SAMPLES
    wants_stop: Callable[[], int] = lambda: 0
    allotment: Allotment | None = None
    on_event: Callable[[Event, StudyRecord], None] = lambda event, record: None


def study_dir(home: Path, name: str) -> Path:
    """Where everything of a study lies."""
    return home / "studies" / name


def run_study(study: Study, home: Path, options: StudyOptions | None = None) -> StudyRecord:
    """Run or take up `study` until it is over or stopped. Ray must be initialised.

    Raises: UserError for what is wrong with it before it starts, or what its first trials show to be wrong.
    """
    options = options or StudyOptions()
    require_runnable(study, options.rates)
    folder = study_dir(home, study.metadata.name)
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(Journal(folder))
        before = StudyRecord(journal.read())
        if before.study:
            require_same(before.study, study)
        earlier = begins_with(study, before, home / "studies")
        prepare_trial = _preparer(study, home, folder)
        prepared = prepare_trial(study.spec.template, "template")
        require_same_data(before.dataset_hash, prepared.dataset_hash, study.metadata.name)
        trials = RayTrials(_config(study, folder, prepared, prepare_trial, options))
        stack.callback(trials.close)
        settings = Settings(
            rates=options.rates,
            dataset_hash=prepared.dataset_hash,
            earlier=earlier,
            versions=_versions(),
            wants_stop=options.wants_stop,
            on_event=options.on_event,
        )
        strategy = TuneStrategy(study.spec, earlier=earlier)
        return Driver(study, journal, strategy, trials, settings).run()


def _config(
    study: Study,
    folder: Path,
    prepared: Prepared,
    prepare_trial: Callable[[TrainJobSpec, str], Prepared],
    options: StudyOptions,
) -> TrialsConfig:
    spec = study.spec
    return TrialsConfig(
        storage=open_storage(prepared.storage_url),
        prepare_trial=prepare_trial,
        template=spec.template,
        most_workers=spec.concurrency.max * spec.template.workers.max,
        log_dir=folder / "logs",
        preload=prepared.preload,
        evaluation_samples=options.evaluation_samples,
        allotment=options.allotment,
    )


def _preparer(study: Study, home: Path, folder: Path) -> Callable[[TrainJobSpec, str], Prepared]:
    """States of all trials lie in the study's own storage, each under its run's name."""
    template = study.spec.template
    named, runtime = template.checkpoint.storage, _code_of(study, home, folder)
    storage = f"{named.rstrip('/')}/{study.metadata.name}" if named else (folder / "states").as_uri()
    metadata = Metadata(name=study.metadata.name, tenant=study.metadata.tenant)

    def prepare_trial(job: TrainJobSpec, run: str) -> Prepared:
        checkpoint = job.checkpoint.model_copy(update={"storage": storage})
        spec = job.model_copy(update={"checkpoint": checkpoint, "runtime": runtime})
        return prepare(TrainJob(metadata=metadata, spec=spec), home, run_id=run)

    return prepare_trial


def _code_of(study: Study, home: Path, folder: Path) -> Runtime:
    """The runtime of every trial, with the code that the study began with: others could not be compared."""
    begun_with, runtime = folder / _CODE_NAME, study.spec.template.runtime
    if begun_with.exists():
        return runtime.model_copy(update={"working_dir": begun_with.read_text(encoding="utf-8") or None})
    runtime = pinned(runtime, home)
    write_durably(begun_with, runtime.working_dir or "")
    return runtime


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("tideline", "ray", "torch", "deepspeed", "optuna")}
