"""What can go wrong with a registered model, as errors a person can act on."""

from __future__ import annotations

from orchestrator.spec.errors import ExitCode, UserError


class RegistryError(UserError):
    """A name, a source folder or an alias the registry cannot take; nothing was written."""


class UnknownModelError(RegistryError):
    """No such model, version or alias."""

    def __init__(self, problem: str, *, where: str = "", next_step: str = "Run 'tide models ls' for what there is.",
                 code: ExitCode = ExitCode.UNKNOWN) -> None:  # fmt: skip
        super().__init__(problem, code=code, where=where, next_step=next_step)


class CorruptRegistryError(RegistryError):
    """Stored bytes are not what their manifest says."""
