"""What the documents promise is there: links and anchors lead somewhere, commands parse, benchmarks exist."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import tests
from orchestrator.cli.main import VERBS
from tests.cli.parsing import commands, trouble

ROOT = Path(tests.__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`(tide [a-z][^`]*)`|'(tide [a-z][^'`]*)'")
_ADVISED = re.compile(r"'(tide [a-z][^'\"]*)'")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(text: str) -> str:
    return _FENCE.sub("", text)


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.*)$", _prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def _dead(page: Path, target: str) -> bool:
    place, _, anchor = unquote(target).partition("#")
    file = (page.parent / place).resolve() if place else page
    if not file.exists() or not file.is_relative_to(ROOT):
        return True
    return bool(anchor) and file.suffix == ".md" and anchor not in _anchors(file)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    targets = [target for target in _LINK.findall(_prose(page.read_text(encoding="utf-8"))) if "://" not in target]
    assert [target for target in targets if _dead(page, target)] == []


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Every `tide` command of a page, and whether it is whole: in a sentence it may lack its arguments."""
    for block in _FENCE.findall(text):
        for line in block.splitlines():
            if re.match(r" *(\$ )?tide [a-z]", line):
                yield line, True
    for pair in _INLINE.findall(_prose(text)):
        yield next(filter(None, pair)), False


def _trouble(line: str, whole: bool) -> str | None:
    line = re.sub(r"\$\([^)]*\)", "X", re.sub(r"[\[\]]|\.\.\.$| \.\.\. *", " ", line))
    line = re.sub(r"\bN\b", "1", line)
    for words in commands(line):
        said = trouble(words)
        if said and (whole or not ("Missing" in said or "requires an argument" in said)):
            return said
    return None


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_are_ones_that_tide_takes(page: Path) -> None:
    found = list(_lines(page.read_text(encoding="utf-8")))
    wrong = {line: said for line, whole in found if (said := _trouble(line, whole))}
    assert wrong == {}


@pytest.mark.parametrize("room", ["jobs", "orchestrator", "serving"])
def test_commands_that_messages_advise_are_ones_that_tide_takes(room: str) -> None:
    said = {
        re.sub(r"\{[^}]*\}", "x", line)
        for file in (ROOT / room).rglob("*.py")
        for line in _ADVISED.findall(file.read_text(encoding="utf-8"))
        if line.count("{") == line.count("}") and "--help" not in line
    }
    assert said
    verbs = {line.removeprefix("tide ") for line in said if line.count(" ") == 1}
    assert verbs <= VERBS.keys()
    assert {line: found for line in said if line.count(" ") > 1 and (found := _trouble(line, False))} == {}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_benchmarks_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"\btests\.benchmarks\.([a-z0-9_]+)", text))
    files = set(re.findall(r"`(tests/[\w/]+\.py)", text))
    assert [one for one in modules if importlib.util.find_spec(f"tests.benchmarks.{one}") is None] == []
    assert [one for one in files if not (ROOT / one).exists()] == []


def test_the_readme_table_names_benchmarks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `([a-z_]+)(?: [^`]*)?` \|$", text, re.MULTILINE)
    assert len(named) > 10
    assert [one for one in named if importlib.util.find_spec(f"tests.benchmarks.{one}") is None] == []


def test_one_page_leads_to_all_others() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(index.read_text())}
    pages = {page.resolve() for page in (ROOT / "docs").glob("*.md")} - {index.resolve()}
    assert pages - linked == set()
