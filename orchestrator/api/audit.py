"""Who asked for what, and what was refused: one JSON line a request that changes something or is not allowed.

Never holds a key, a header or a body. What was changed stands in the ledger's events with the same actor.
"""

from __future__ import annotations

import json
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

_MAX_FILE_BYTES = 32 * 2**20
_KEPT_FILES = 8


class AuditLog:
    """A file of lines, readable by its owner alone; None: nothing is written (tests)."""

    def __init__(self, path: Path | None) -> None:
        self._logger = logging.Logger("tideline.audit")
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._logger.addHandler(
                RotatingFileHandler(path, maxBytes=_MAX_FILE_BYTES, backupCount=_KEPT_FILES, encoding="utf-8")
            )
        else:
            self._logger.addHandler(logging.NullHandler())

    def write(self, **fields: object) -> None:
        """Add a line."""
        self._logger.info(json.dumps(fields, separators=(",", ":"), default=str))

    def close(self) -> None:
        """Close the file."""
        for handler in list(self._logger.handlers):
            handler.close()
            self._logger.removeHandler(handler)
