"""The archive of logs: appended, resumed by offset, ended, purged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.service.logs import FileLogArchive, LogPurgedError


@pytest.fixture
def archive(tmp_path: Path) -> FileLogArchive:
    return FileLogArchive(tmp_path / "logs")


def test_a_reader_resumes_where_it_stopped(archive: FileLogArchive) -> None:
    archive.append("a", 1, b"one\n")
    first = archive.chunk("a", 1, offset=0, limit=100)
    assert (first.data, first.next_offset, first.ended) == (b"one\n", 4, False)
    archive.append("a", 1, b"two\n")
    second = archive.chunk("a", 1, offset=first.next_offset, limit=3)
    assert (second.offset, second.data, second.next_offset) == (4, b"two", 7)


def test_the_end_is_told_with_the_last_byte_and_not_before(archive: FileLogArchive) -> None:
    archive.append("a", 1, b"one\n")
    archive.end("a", 1)
    assert not archive.chunk("a", 1, offset=0, limit=2).ended
    assert archive.chunk("a", 1, offset=2, limit=2).ended
    assert archive.chunk("a", 1, offset=4, limit=2).ended


def test_an_offset_beyond_the_end_is_the_end(archive: FileLogArchive) -> None:
    archive.append("a", 1, b"one\n")
    found = archive.chunk("a", 1, offset=99, limit=10)
    assert (found.offset, found.data, found.next_offset) == (4, b"", 4)


def test_an_attempt_that_said_nothing_has_an_empty_log(archive: FileLogArchive) -> None:
    archive.end("a", 1)
    found = archive.chunk("a", 1, offset=0, limit=10)
    assert (found.data, found.ended) == (b"", True)


@pytest.mark.parametrize(("job", "attempt"), [("b", 1), ("a", 2), ("../a", 1), ("a/../../etc", 1), ("", 1), ("a", 0)])
def test_what_is_not_there_is_a_key_error_and_leads_nowhere(archive: FileLogArchive, job: str, attempt: int) -> None:
    archive.append("a", 1, b"one\n")
    with pytest.raises(KeyError):
        archive.chunk(job, attempt, offset=0, limit=10)


def test_purged_logs_are_gone_and_say_so_and_others_stay(archive: FileLogArchive, tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        archive.append("a", attempt, b"one\n")
    archive.end("a", 1)
    archive.end("a", 2)
    os.utime(tmp_path / "logs" / "a" / "000001.ended", (1.0, 1.0))
    assert archive.purge(before_s=100.0) == 1
    assert archive.purge(before_s=100.0) == 0
    with pytest.raises(LogPurgedError):
        archive.chunk("a", 1, offset=0, limit=10)
    assert archive.chunk("a", 2, offset=0, limit=10).data == b"one\n"
    assert archive.attempts("a") == (1, 2, 3)


def test_a_log_is_its_owners_alone(archive: FileLogArchive, tmp_path: Path) -> None:
    archive.append("a", 1, b"secret\n")
    assert (tmp_path / "logs" / "a" / "000001.log").stat().st_mode & 0o077 == 0
