"""Collects what is wrong with an input file, so that one error names every bad row and column at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.spec.errors import ExitCode, UserError

MAX_SHOWN = 20


@dataclass
class Faults:
    """Problems of one file, in the order they were met. Lines are counted from 1, the header included."""

    path: Path
    found: list[str] = field(default_factory=list)

    def add(self, problem: str, *, line: int | None = None, column: str | None = None) -> None:
        """Note a problem at a line and column of the file."""
        where = f"{self.path}" + (f":{line}" if line else "")
        self.found.append(f"{where}: " + (f"column '{column}': " if column else "") + problem)

    def check(self, next_step: str = "") -> None:
        """Raise UserError (exit 3) with everything found; return when nothing was."""
        if not self.found:
            return
        shown = self.found[:MAX_SHOWN]
        more = len(self.found) - len(shown)
        lines = "\n".join(shown) + (f"\n... and {more} more" if more else "")
        raise UserError(lines, code=ExitCode.INVALID, next_step=next_step)


def read_text(path: Path) -> str:
    """The text of a user's file; UserError when it cannot be read as UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problem = "no such file; it must be a series or a price list that you have"
        next_step = "Paths are relative to the file that names them; recorded series are not shipped"
        raise UserError(problem, where=str(path), next_step=next_step) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from None
