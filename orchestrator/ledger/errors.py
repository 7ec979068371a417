"""What can go wrong with the ledger, for a person (`UserError`) or for the process that writes it."""

from __future__ import annotations

from orchestrator.spec.errors import ExitCode, FencedError, UnreachableError, UserError

__all__ = [
    "ConflictError",
    "FencedError",
    "LedgerError",
    "NotLeadingError",
    "UnknownJobError",
    "UnreachableError",
]


class LedgerError(UserError):
    """A request that the ledger refuses; nothing was changed."""


class UnknownJobError(LedgerError):
    """There is no such job."""

    def __init__(self, job: str) -> None:
        super().__init__(f"there is no job {job!r}", code=ExitCode.UNKNOWN, next_step="Run 'tide ps' for the list")


class ConflictError(LedgerError):
    """The state of something forbids what was asked."""

    def __init__(self, problem: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(problem, code=ExitCode.CONFLICT, where=where, next_step=next_step)


class NotLeadingError(LedgerError):
    """This server only reads: another one leads."""

    def __init__(self, leader: str) -> None:
        problem = f"this server does not lead; {leader or 'nobody'} does"
        super().__init__(problem, code=ExitCode.UNREACHABLE, next_step="Ask the leader, or try again in a few seconds")
