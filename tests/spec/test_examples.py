"""The examples show every key there is, and every YAML file of ours under cluster-configs/ loads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter

from orchestrator.spec import KINDS, check_file, load_file
from orchestrator.spec.golden import example_specs, golden_keys, main, missing_keys
from orchestrator.spec.nodes import ListNode, MapNode, Mark, Node
from orchestrator.spec.reader import read_documents
from orchestrator.spec.scalars import render_real

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "cluster-configs" / "examples"
GOLDEN = Path(__file__).with_name("golden_keys.txt")
FILES = sorted(path for path in (ROOT / "cluster-configs").rglob("*") if path.suffix in (".yaml", ".yml"))


def test_every_key_of_every_kind_stands_in_an_example() -> None:
    assert missing_keys(list(example_specs(EXAMPLES))) == []


def test_the_list_of_keys_is_the_golden_one() -> None:
    """Another key is a choice, a renamed or removed one breaks users' files. To accept a change:
    `python -m orchestrator.spec.golden cluster-configs/examples > tests/spec/golden_keys.txt`."""
    assert golden_keys(example_specs(EXAMPLES)) == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_a_key_that_no_example_shows_is_noticed() -> None:
    without_endpoint = [spec for spec in example_specs(EXAMPLES) if type(spec).__name__ != "Endpoint"]
    assert "Canary.weight" in missing_keys(without_endpoint)


def test_whoever_makes_the_list_is_told_what_no_example_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(EXAMPLES) == 0
    assert capsys.readouterr() == (GOLDEN.read_text(encoding="utf-8"), "")
    (tmp_path / "merge.yaml").write_bytes((EXAMPLES / "merge.yaml").read_bytes())
    assert main(tmp_path) == 1
    assert "no example sets Canary.weight" in capsys.readouterr().err


def test_every_kind_has_an_example_whose_first_document_is_of_it() -> None:
    assert {type(load_file(path)[0]).__name__ for path in EXAMPLES.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_yaml_file_of_ours_loads(path: Path) -> None:
    assert check_file(path, skip_foreign=True).problems == ()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_explain_themselves(path: Path) -> None:
    """At least every third line says something: an example without words is only a test file."""
    lines = [line for line in path.read_text(encoding="utf-8").split("---")[0].splitlines() if line.strip()]
    assert sum("#" in line for line in lines) >= len(lines) // 3


def test_defaults_that_comments_name_are_the_defaults() -> None:
    """`(default: X)` behind a key must be what the model has; words behind it (`the state folder`) mean none."""
    said = [one for path in sorted(EXAMPLES.glob("*.yaml")) for one in _said_defaults(path)]
    wrong = [f"{model.__name__}.{key}: {word}" for model, key, word in said if not _is_default(model, key, word)]
    assert wrong == []
    assert len(said) > 30


def _said_defaults(path: Path) -> list[tuple[type[BaseModel], str, str]]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []
    for spec, node in zip(load_file(path), read_documents(text).documents, strict=True):
        for model, key, mark in _keys(spec, node):
            line = lines[mark.line - 1]
            first_on_its_line = line[: mark.column - 1].strip(" -") == ""
            said = re.search(r"\(default: ([^)]*)\)", line)
            if said and first_on_its_line:
                found.append((model, key, said[1]))
    return found


def _keys(value: object, node: Node) -> Iterator[tuple[type[BaseModel], str, Mark]]:
    if isinstance(value, BaseModel) and isinstance(node, MapNode):
        for key, below in node.items.items():
            yield type(value), key, node.keys[key]
            yield from _keys(getattr(value, key), below)
    elif isinstance(value, tuple) and isinstance(node, ListNode):
        for item, below in zip(value, node.items, strict=True):
            yield from _keys(item, below)
    elif isinstance(value, Mapping) and isinstance(node, MapNode):
        for key, below in node.items.items():
            yield from _keys(value[key], below)


def _is_default(model: type[BaseModel], key: str, word: str) -> bool:
    field = model.model_fields[key]
    default = field.get_default(call_default_factory=True)
    annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    shown = TypeAdapter[Any](annotation).dump_python(default, mode="json")
    if shown is None or shown == [] or isinstance(shown, dict | list):
        return not word.isdigit()
    if isinstance(shown, bool):
        return word == str(shown).lower()
    return word == (render_real(shown) if isinstance(shown, int | float) else str(shown))
