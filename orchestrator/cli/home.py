"""Where Tideline keeps its state on this machine; the environment is read here and nowhere below."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.spec.errors import UserError


def home_dir() -> Path:
    """The state folder, created with access for its owner alone: TIDE_HOME, else XDG's state folder + `tideline`.

    Raises: UserError when there can be no such folder.
    """
    named = os.environ.get("TIDE_HOME")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    home = Path(named).expanduser() if named else Path(state) / "tideline"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the state folder cannot be made: {error.strerror}"
        raise UserError(problem, where=str(home), next_step="Set TIDE_HOME to a folder that you may write to") from None
    return home.resolve()
