"""Pages by cursor: an opaque text that names the last thing of the page before, so that nothing is skipped or repeated
when things come and go in between."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.spec.errors import ExitCode

T = TypeVar("T")
_MOST_NUMBER = 2**63 - 1


def page_of(rows: Sequence[T], limit: int, id_of: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """The page that the first rows are, where one more than `limit` was asked for, and the cursor of the next one."""
    shown = rows[:limit]
    return shown, cursor_of(id_of(shown[-1])) if len(rows) > limit else None


def cursor_of(after: str) -> str:
    """The cursor of the page that begins after this id."""
    return base64.urlsafe_b64encode(json.dumps(["v1", after]).encode()).decode().rstrip("=")


def after_of(cursor: str | None) -> str | None:
    """The id that a cursor names. Raises: ApiError (422) for a text that is no cursor of ours."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        version, after = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if version == "v1" and isinstance(after, str) and len(after) <= 200:
            return after
    except (ValueError, TypeError, binascii.Error, UnicodeError, RecursionError):
        pass
    raise _none_of_ours()


def after_number_of(cursor: str | None) -> int | None:
    """The number that a cursor names, of a list in order of numbers. Raises: ApiError (422), also for a cursor of
    another list."""
    after = after_of(cursor)
    if after is None:
        return None
    if after.isascii() and after.isdecimal() and int(after) <= _MOST_NUMBER:
        return int(after)
    raise _none_of_ours()


def _none_of_ours() -> ApiError:
    return ApiError(
        422,
        ProblemCode.INVALID,
        "this is no cursor of a page",
        exit_code=ExitCode.INVALID,
        where="query cursor",
        next_step="Send next_cursor of the page before as it is, or no cursor for the first page",
    )
