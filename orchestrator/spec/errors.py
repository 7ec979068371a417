"""What a user did wrong, as a value: every error that reaches a person says where, what, and what to do next."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of `tide`; `http_status` is the status the API answers for the same condition."""

    OK = 0
    BUG = 1
    USAGE = 2
    INVALID = 3
    UNKNOWN = 4
    FORBIDDEN = 5
    UNREACHABLE = 6
    CONFLICT = 7
    NEVER = 8
    JOB_FAILED = 100
    NOT_FINISHED = 101
    CANCELLED = 103
    DETACHED = 130

    @property
    def http_status(self) -> int:
        """HTTP status for this code; 500 for codes that only a terminal sees."""
        return {0: 200, 2: 400, 3: 422, 4: 404, 5: 403, 6: 503, 7: 409, 8: 422}.get(self.value, 500)


class UserError(Exception):
    """A mistake or a condition that the person at the other end can act on; never a bug of ours.

    Survives pickling, so it may cross a Ray boundary. Callers read the fields, never the text.
    """

    def __init__(
        self, problem: str, *, code: ExitCode = ExitCode.INVALID, where: str = "", next_step: str = ""
    ) -> None:
        super().__init__(problem, code, where, next_step)
        self.problem = problem
        self.code = ExitCode(code)
        self.where = where
        self.next_step = next_step

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.problem, int(self.code), self.where, self.next_step))

    def __str__(self) -> str:
        head = f"{self.where}: {self.problem}" if self.where else self.problem
        return f"{head}. {self.next_step}" if self.next_step else head


def _rebuild(kind: type[UserError], problem: str, code: int, where: str, next_step: str) -> UserError:
    error = UserError.__new__(kind)
    UserError.__init__(error, problem, code=ExitCode(code), where=where, next_step=next_step)
    return error


class UnreachableError(Exception):
    """The other side (Ray, the database, a cloud) does not answer. Nothing is known of whether it acted; asking again
    is safe, and no job fails for it."""


class FencedError(Exception):
    """Somebody else leads by now: what was decided here must not be done."""
