"""Every sentence that a file can get back, pinned once, with line and column: `messages/*.txt` is read here.

A block is `# name`, the kind whose small document is spoiled (or `raw`), the lines that spoil it, `=>`, and what is
told. After a change of wording: `python -m tests.spec.test_messages` writes the blocks again; read the diff.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from orchestrator.spec import Code
from tests.spec.documents import ALL, JOB, STUDY, spoil, told

FOLDER = Path(__file__).with_name("messages")


def blocks() -> list[tuple[str, str, list[str]]]:
    """(file and name, text of the document, what is told) of every block."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").removesuffix("\n").split("\n\n"):
            head, _, expected = block.partition("\n=>\n")
            name, kind, *lines = head.split("\n")
            text = "\n".join(lines) + "\n" if kind == "raw" else spoil(ALL[kind], *lines)
            found.append((f"{path.stem}: {name.removeprefix('# ')}", text, expected.split("\n")))
    return found


@pytest.mark.parametrize(("text", "expected"), [block[1:] for block in blocks()], ids=[block[0] for block in blocks()])
def test_message(text: str, expected: list[str]) -> None:
    assert told(text) == expected


def test_names_of_blocks_differ() -> None:
    names = [block[0] for block in blocks()]
    assert len(names) == len(set(names))


def test_every_code_is_pinned_here_or_below() -> None:
    pinned = {code for _, _, expected in blocks() for line in expected for code in re.findall(r"\bE1\d\d\b", line)}
    below = {Code.UNREADABLE, Code.IN_THE_PAST}
    assert pinned | below == set(Code)


@pytest.mark.parametrize("document", ALL.values(), ids=ALL)
def test_the_small_documents_are_fine(document: str) -> None:
    assert told(document) == []


NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def test_a_deadline_in_the_past_is_told_when_now_is_given() -> None:
    text = spoil(JOB, "  deadline: 2026-03-01T12:00:00+01:00")
    assert told(text) == []
    assert told(text, now=NOW) == [
        "f:10:13: E117 deadline: 2026-03-01T12:00:00+01:00 has passed; it must be after 2026-03-01T12:00:00+00:00. "
        "Name a later time."
    ]


def test_the_deadline_of_a_template_counts_too() -> None:
    text = STUDY.replace("    steps: 300", "    steps: 300\n    deadline: 2026-03-01T12:00:00Z")
    assert [line.split(" ")[:3] for line in told(text, now=NOW)] == [["f:12:15:", "E117", "template.deadline:"]]


def test_a_deadline_to_come_and_a_duration_are_fine() -> None:
    assert told(spoil(JOB, "  deadline: 2026-03-01T12:00:01Z"), now=NOW) == []
    assert told(spoil(JOB, "  deadline: 1s"), now=NOW) == []


def _rewrite() -> None:
    for path in sorted(FOLDER.glob("*.txt")):
        written = []
        for block in path.read_text(encoding="utf-8").removesuffix("\n").split("\n\n"):
            head = block.partition("\n=>\n")[0]
            _, kind, *lines = head.split("\n")
            text = "\n".join(lines) + "\n" if kind == "raw" else spoil(ALL[kind], *lines)
            written.append("\n".join([head, "=>", *told(text)]))
        path.write_text("\n\n".join(written) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _rewrite()
