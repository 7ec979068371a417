"""What is run by a command alone, without a server: keys that nobody would carry out are refused, not passed over."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec import Endpoint, Study
from orchestrator.spec.errors import UserError
from orchestrator.spec.job_parts import Runtime


def refuse_without_effect(spec: Study | Endpoint, file: Path) -> None:
    """Raises: UserError for keys that ask for a server, and for those that nobody carries out."""
    if isinstance(spec, Study):
        refuse_runtime(spec.spec.template.runtime, "spec.template.runtime", file)
    if spec.spec.notify:
        raise UserError(
            "spec.notify: what this command runs by itself is told to nobody",
            where=str(file),
            next_step=f"Remove the key, or run it under a server: 'tide submit {file}'",
        )


def refuse_runtime(runtime: Runtime, place: str, file: Path) -> None:
    """Raises: UserError for a key of `runtime` that nobody carries out, with a server or without one."""
    for key, instead in runtime.without_effect.items():
        problem = f"{place}.{key}: nothing carries it out yet; {instead}"
        raise UserError(problem, where=str(file), next_step="Remove the key")
