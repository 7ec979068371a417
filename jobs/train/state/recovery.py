"""Load the newest checkpoint of a run that is sound on every rank, and say what was passed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.train.state.checkpoints import read_manifest, steps
from jobs.train.state.compatibility import Expected, require
from jobs.train.state.errors import CorruptStateError
from jobs.train.state.loading import LoadReport, fill
from jobs.train.state.manifest import Manifest
from jobs.train.state.storage import Storage
from jobs.train.state.view import ShardView


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was loaded; `refused` tells which newer checkpoints were not, and why."""

    manifest: Manifest
    report: LoadReport
    refused: tuple[str, ...]


def load_latest_good(
    view: ShardView,
    storage: Storage,
    run: str,
    expected: Expected | None = None,
    agree: Callable[[bool], bool] = lambda good: good,
) -> Loaded | None:
    """Load the newest checkpoint that is sound on every rank; None if the run has none at all.

    `agree` tells every rank whether all of them succeeded (a minimum over ranks); alone, there is nothing to agree on.
    Raises: WrongStateError if the newest belongs to another model or data set, CorruptStateError if none is sound.
    """
    refused: list[str] = []
    candidates = list(reversed(steps(storage, run)))
    for step in candidates:
        problem, manifest, report = "", None, None
        try:
            manifest = read_manifest(storage, run, step)
            if expected is not None:
                require(expected, manifest)
            report = fill(view.wanted, manifest, storage)
        except CorruptStateError as error:
            problem = str(error)
        if agree(not problem):
            assert manifest is not None
            assert report is not None
            view.set_scalars(manifest.scalars)
            view.publish()
            return Loaded(manifest=manifest, report=report, refused=tuple(refused))
        refused.append(f"step {step}: {problem or 'another rank could not read it'}")
    if not candidates:
        return None
    raise CorruptStateError(
        f"no checkpoint of run {run!r} is sound: {'; '.join(refused)}",
        where=storage.url,
        next_step="Restore one from a backup, or submit the job under a new name to start again",
    )
