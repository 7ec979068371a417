"""A job's own code, pinned: what is imported is a copy in the home, whatever becomes of the folder that was copied."""

from __future__ import annotations

from pathlib import Path

from jobs.code.store import CodeStore
from orchestrator.spec import TrainJob
from orchestrator.spec.job_parts import CODE_PREFIX, Runtime


def pinned(runtime: Runtime, home: Path) -> Runtime:
    """The runtime with its folder of code copied into the home and named by what it holds; as it is without one.

    Raises: UserError for a folder that cannot be copied.
    """
    if runtime.working_dir is None or runtime.code is not None:
        return runtime
    ident = CodeStore(home).keep(Path(runtime.working_dir))
    return runtime.model_copy(update={"working_dir": CODE_PREFIX + ident})


def with_pinned_code(job: TrainJob, home: Path) -> TrainJob:
    """The same for a whole job."""
    runtime = pinned(job.spec.runtime, home)
    return job.model_copy(update={"spec": job.spec.model_copy(update={"runtime": runtime})})


def code_folder(runtime: Runtime, home: Path) -> Path | None:
    """Where the pinned code of a runtime lies; None without any. Raises: UserError (unknown) if it is not there."""
    return None if runtime.code is None else CodeStore(home).folder(runtime.code)
