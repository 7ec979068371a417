"""Names that the command line turns into folders: nothing else may come of them."""

from __future__ import annotations

from orchestrator.spec.errors import UserError
from orchestrator.spec.names import JOB_PATTERN, matches
from orchestrator.spec.scalars import shown

# Also what was put aside for a fresh start: NAME~1.
_PATTERN = JOB_PATTERN[:-1] + r"(~[1-9][0-9]{0,8})?$"


def require_name(text: str, what: str) -> str:
    """The name, if it can be one of a job or study. Raises: UserError."""
    if not matches(_PATTERN, text):
        want = "it must be 1 to 63 lower-case letters, digits and '-', and may end in '.' and the number of a run"
        raise UserError(f"{shown(text)} cannot name a {what}; {want}")
    return text
