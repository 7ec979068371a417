"""A running replica follows the versions that are wanted, beside its answers.

Serve takes a replica whose `reconfigure` runs out of rotation, and stops one whose `reconfigure` fails. Loading weights
is a reason for neither, so it happens on a thread, and what came of it is there to be asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Followed:
    """The last wish that was carried out, or, with `error`, was tried: then what was served before still is."""

    wish: dict[str, Any] | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """How one replica stands: what it was `built` from, the last wish that it `followed`, and why its canary was
    `rolled_back`."""

    built: str
    followed: Followed
    rolled_back: str | None = None


class Follower:
    """Carries out wishes one at a time; of several that come meanwhile only the last counts."""

    def __init__(self, carry_out: Callable[[dict[str, Any]], None]) -> None:
        self._carry_out = carry_out
        self._lock = threading.Lock()
        self._asked: dict[str, Any] | None = None
        self._followed = Followed(None)
        self._working = False

    @property
    def followed(self) -> Followed:
        """How far it has come."""
        return self._followed

    def begin(self, wish: dict[str, Any]) -> None:
        """The first wish, before any request comes. Raises: whatever carrying it out raises."""
        self._carry_out(wish)
        self._asked, self._followed = wish, Followed(wish)

    def follow(self, wish: dict[str, Any]) -> None:
        """A later wish; returns at once."""
        with self._lock:
            self._asked = wish
            if self._working:
                return
            self._working = True
        threading.Thread(target=self._work, name="follow-versions", daemon=True).start()

    def _work(self) -> None:
        while (wish := self._next()) is not None:
            error = None
            try:
                self._carry_out(wish)
            except Exception as failed:  # whatever a folder of weights may hold, the answers go on
                error = str(failed) or type(failed).__name__
                _log.warning("versions not changed", error=error)
            self._followed = Followed(wish, error)

    def _next(self) -> dict[str, Any] | None:
        with self._lock:
            self._working = self._asked != self._followed.wish
            return self._asked if self._working else None
