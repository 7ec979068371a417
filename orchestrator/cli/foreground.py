"""What is run by a command alone, without a server: what only a server can do is refused, not left out."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec import Endpoint, Study
from orchestrator.spec.errors import UserError


def refuse_hooks(spec: Study | Endpoint, file: Path) -> None:
    """Raises: UserError where somebody is to be told of an end: that is done by a server."""
    if spec.spec.notify:
        raise UserError(
            "spec.notify: what this command runs by itself is told to nobody",
            where=str(file),
            next_step=f"Remove the key, or run it under a server: 'tide submit {file}'",
        )
