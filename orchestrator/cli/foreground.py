"""What is run by a command alone, without a server: keys that nobody would carry out are refused, not passed over."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec import Endpoint, Study
from orchestrator.spec.errors import UserError


def refuse_without_effect(spec: Study | Endpoint, file: Path) -> None:
    """Raises: UserError for keys that ask for a server."""
    if spec.spec.notify:
        raise UserError(
            "spec.notify: what this command runs by itself is told to nobody",
            where=str(file),
            next_step=f"Remove the key, or run it under a server: 'tide submit {file}'",
        )
