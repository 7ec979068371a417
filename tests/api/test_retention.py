"""The chore that removes what is old: when it is time, and again at once while more is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.api.retention import EVERY_S, Retention
from orchestrator.service.logs import FileLogArchive


@dataclass
class Books:
    more: list[bool]
    asked: list[float] = field(default_factory=list)

    def prune(self, *, before_s: float) -> bool:
        self.asked.append(before_s)
        return self.more.pop(0)


def test_it_goes_on_at_once_while_more_is_left_and_rests_afterwards(tmp_path: Path) -> None:
    books = Books([True, False, False])
    chore = Retention(books, FileLogArchive(tmp_path), 100.0, 10.0)  # type: ignore[arg-type]
    assert chore(1000.0) == 1000.0
    assert chore(1001.0) == 1001.0 + EVERY_S
    assert chore(1002.0) == 1001.0 + EVERY_S
    assert books.asked == [900.0, 901.0]
    assert chore(0.0) == EVERY_S  # the clock was set back
    assert books.asked == [900.0, 901.0, -100.0]


def test_logs_of_attempts_that_ended_long_ago_are_removed(tmp_path: Path) -> None:
    logs = FileLogArchive(tmp_path)
    for name in ("old", "open"):
        logs.append(name, 1, b"said\n")
    logs.end("old", 1)
    Retention(Books([False]), logs, 100.0, 10.0)(1e11)  # type: ignore[arg-type]
    assert not (tmp_path / "old" / "000001.log").exists()
    assert logs.chunk("open", 1, offset=0, limit=10).data == b"said\n"
