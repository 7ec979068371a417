"""Pages by cursor: an opaque text that names the last thing of the page before, so that nothing is skipped or repeated
when things come and go in between."""

from __future__ import annotations

import base64
import binascii
import json

from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.spec.errors import ExitCode


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
    raise ApiError(
        422,
        ProblemCode.INVALID,
        "this is no cursor of a page",
        exit_code=ExitCode.INVALID,
        where="query cursor",
        next_step="Send next_cursor of the page before as it is, or no cursor for the first page",
    )
