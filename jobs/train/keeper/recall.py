"""What a keeper remembers of the lead's verdicts when it is killed: one small file per run, beside the segments.

Without it a lead that starts again would judge from the first reports alone, take an older snapshot for one of the
newest, and have a newer one dropped.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import structlog

from jobs.train import wire
from jobs.train.keeper.values import Verdicts
from jobs.train.wire import WireError

_SUFFIX = ".verdicts"
_log = structlog.get_logger(__name__)


class Recall:
    """Verdicts by run name, in a keeper's own folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, verdicts: Verdicts) -> None:
        """Remember these, whole or not at all. A full file system costs the memory, not the verdict."""
        target = self._path(verdicts.run)
        draft = target.with_suffix(f"{_SUFFIX}.draft")
        with contextlib.suppress(OSError):
            draft.write_bytes(wire.dump(verdicts))
            draft.replace(target)

    def load(self, run: str, attempt: int) -> Verdicts | None:
        """What was remembered of this attempt; None if it was nothing."""
        try:
            verdicts = wire.load(Verdicts, self._path(run).read_bytes())
        except FileNotFoundError:
            return None
        except WireError as error:
            _log.warning("remembered verdicts unreadable", run=run, error=str(error))
            return None
        return verdicts if verdicts.attempt == attempt else None

    def forget(self, run: str) -> None:
        """The run is over."""
        self._path(run).unlink(missing_ok=True)

    def _path(self, run: str) -> Path:
        return self._folder / f"{run}{_SUFFIX}"
