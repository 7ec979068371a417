"""An `os` that fails on a chosen call: with an error, or by a crash that also loses what was not yet synced."""

from __future__ import annotations

import os
from pathlib import Path

MUTATING = ("open", "write", "posix_fallocate", "fsync", "replace", "link", "unlink", "rmdir", "makedirs", "close")


class Crash(BaseException):
    """The machine stops; nothing of ours runs any more."""


class FaultyOs:
    """Stands in for the module `os`; counts calls that change something and fails number `fail_at`.

    `error` None means a crash: half of a write arrives, later calls do nothing, and `power_off` then empties every file
    that was written but not synced. An errno means that this one call raises OSError. Calls named `ignored` are counted
    and do nothing.
    """

    def __init__(self, fail_at: int, error: int | None = None, ignored: str = "") -> None:
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._error = error
        self._ignored = ignored
        self._crashed = False
        self._paths: dict[int, Path] = {}
        self._unsynced: set[Path] = set()

    def __getattr__(self, name: str):
        real = getattr(os, name)
        return self._wrap(name, real) if name in MUTATING else real

    def _wrap(self, name, real):
        def call(*args, **kwargs):
            if self._crashed:
                raise Crash(name)
            number, _ = len(self.calls), self.calls.append(name)
            if number == self._fail_at:
                if self._error is not None and name != "close":
                    raise OSError(self._error, os.strerror(self._error))
                self._crashed = self._error is None
                if self._crashed:
                    if name == "write":
                        real(args[0], args[1][: len(args[1]) // 2])
                    raise Crash(name)
            if name == self._ignored:
                return None
            result = real(*args, **kwargs)
            self._track(name, args, result)
            return result

        return call

    def _track(self, name, args, result) -> None:
        if name == "open":
            self._paths[result] = Path(args[0])
        elif name == "write":
            self._unsynced.add(self._paths[args[0]])
        elif name == "fsync":
            self._unsynced.discard(self._paths[args[0]])
        elif name in ("replace", "link") and Path(args[0]) in self._unsynced:
            self._unsynced.add(Path(args[1]))

    def power_off(self) -> None:
        """Lose what was never synced."""
        for path in self._unsynced:
            if path.exists():
                os.truncate(path, 0)
