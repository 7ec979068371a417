"""Where Tideline keeps its state on this machine; the environment is read here and nowhere below."""

from __future__ import annotations

import os
from pathlib import Path


def home_dir() -> Path:
    """The state folder, created with access for its owner alone: TIDE_HOME, else XDG's state folder + `tideline`."""
    named = os.environ.get("TIDE_HOME")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    home = Path(named).expanduser() if named else Path(state) / "tideline"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home.resolve()
