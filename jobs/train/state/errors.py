"""What can be wrong with saved state, each as its own type, so that a caller can fall back without reading text."""

from __future__ import annotations

from orchestrator.spec.errors import ExitCode, UserError


class StateError(UserError):
    """Saved state cannot be used, or cannot be saved."""


class CorruptStateError(StateError):
    """A file is truncated, changed or gone; an older checkpoint may still be good. `where` names the file."""


class WrongStateError(StateError):
    """The state is sound but belongs to another model or data set; an older checkpoint would be, too."""


class StorageError(StateError):
    """Storage refused: full, read-only, gone, or not the same for every node. What was committed is untouched."""

    def __init__(
        self, problem: str, *, code: ExitCode = ExitCode.UNREACHABLE, where: str = "", next_step: str = ""
    ) -> None:
        super().__init__(problem, code=code, where=where, next_step=next_step)
