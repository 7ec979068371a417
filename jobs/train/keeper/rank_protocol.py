"""What ranks and their node's keeper say over the unix socket: one JSON object a line, an answer to each.

Questions carry `op`; answers carry `ok`, and if that is false `error` (a closed set) and `detail`.
"""

from __future__ import annotations

import enum
import json
from typing import Any

MAX_LINE_BYTES = 64 * 2**20
SOCKET_NAME = "keeper.sock"


class Refusal(enum.StrEnum):
    """Why a keeper says no."""

    NO_ROOM = "no_room"  # this snapshot is skipped; later ones may fit
    UNKNOWN_RUN = "unknown_run"  # no such attempt here: it has not begun, or is over
    CONFLICT = "conflict"  # the question does not fit what was asked before
    MALFORMED = "malformed"


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The object in one line. Raises: ValueError if there is none, or the line was cut."""
    if not line.endswith(b"\n"):
        raise ValueError("line was cut")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message
