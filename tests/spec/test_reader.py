"""The YAML reader: text stays text, places are right, and files from strangers cannot blow it up."""

from __future__ import annotations

import random

import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import check_text
from orchestrator.spec.nodes import ListNode, MapNode, Node, ScalarNode, to_python
from orchestrator.spec.problems import Code
from orchestrator.spec.reader import MAX_ALIAS_NODES, read_documents
from orchestrator.spec.scalars import Plain
from tests.spec.documents import ALL


def read(text: str) -> object:
    reading = read_documents(text)
    assert reading.flaws == ()
    return to_python(reading.documents[0])


def test_scalars_stay_text_and_remember_whether_they_were_quoted() -> None:
    values = read("{a: 22:00, b: no, c: 1e3, d: '12', e: 2026-03-01}")
    assert values == {"a": "22:00", "b": "no", "c": "1e3", "d": "12", "e": "2026-03-01"}
    assert isinstance(values, dict)
    assert isinstance(values["a"], Plain)
    assert not isinstance(values["d"], Plain)


def test_nothing_is_none_and_quoted_nothing_is_text() -> None:
    assert read("{a: , b: ~, c: null, d: '', e: 'null'}") == {"a": None, "b": None, "c": None, "d": "", "e": "null"}


def test_json_is_read_as_well() -> None:
    assert read('{"a": [1, {"b": "x"}], "c": null}') == {"a": ["1", {"b": "x"}], "c": None}


def test_several_documents_are_read_in_order() -> None:
    assert [to_python(one) for one in read_documents("a: 1\n---\nb: 2\n").documents] == [{"a": "1"}, {"b": "2"}]


def test_aliases_repeat_a_value_up_to_the_limit() -> None:
    assert read("a: &x {k: 1}\nb: *x") == {"a": {"k": "1"}, "b": {"k": "1"}}
    fitting = f"a: &x 1\nb: [{', '.join(['*x'] * MAX_ALIAS_NODES)}]"
    assert read_documents(fitting).flaws == ()
    assert [flaw.code for flaw in read_documents(fitting.replace("]", ", *x]")).flaws] == [Code.UNSAFE_YAML]


def test_ten_levels_of_ten_aliases_are_refused_without_being_expanded() -> None:
    lines = ["l0: &l0 [x]"] + [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 11)]
    assert [flaw.code for flaw in read_documents("\n".join(lines)).flaws] == [Code.UNSAFE_YAML]


def test_depth_reached_through_aliases_counts() -> None:
    deep = "[" * 40 + "x" + "]" * 40
    text = f"a: &a {deep}\nb: {'[' * 40}*a{']' * 40}"
    assert [flaw.what for flaw in read_documents(text).flaws] == ["is nested more than 64 deep"]


def test_of_a_key_written_twice_the_first_value_counts() -> None:
    reading = read_documents("a: 1\na: 2\n")
    assert to_python(reading.documents[0]) == {"a": "1"}
    assert [(flaw.code, flaw.mark.line) for flaw in reading.flaws] == [(Code.DUPLICATE_KEY, 2)]


VALUES = st.recursive(
    st.one_of(st.integers(), st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcde", min_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_what_yaml_writes_is_read_back_as_text(value: object, flow: bool) -> None:
    text = yaml.safe_dump({"top": value}, default_flow_style=flow, allow_unicode=True)
    assert read(text) == {"top": _texts(value)}


def _texts(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return str(value)


@given(VALUES, st.booleans())
def test_every_mark_points_at_its_value(value: object, flow: bool) -> None:
    text = yaml.safe_dump({"top": value}, default_flow_style=flow, allow_unicode=True)
    lines = text.split("\n")
    for node in _nodes(read_documents(text).documents[0]):
        if isinstance(node, ScalarNode) and isinstance(node.value, Plain):
            # The first line of it: plain text may be folded over several.
            assert lines[node.mark.line - 1][node.mark.column - 1 :].startswith(
                node.value[:4].split("\n")[0].split(" ")[0]
            )


def _nodes(node: Node) -> list[Node]:
    match node:
        case ScalarNode():
            return [node]
        case ListNode(items=items):
            return [node, *(below for item in items for below in _nodes(item))]
        case MapNode(items=entries):
            return [node, *(below for item in entries.values() for below in _nodes(item))]


@given(st.sampled_from(sorted(ALL)), st.randoms(use_true_random=False))
def test_a_spoiled_value_is_told_at_its_place(kind: str, chance: random.Random) -> None:
    """Whichever value of a document becomes nonsense: what is told about the nonsense stands where it stands."""
    text = ALL[kind]
    leaves = [leaf for leaf in _leaves(yaml.compose(text)) if leaf.start_mark.line > 1]
    leaf = chance.choice(leaves)
    spoiled = f"{text[: leaf.start_mark.index]}{'!@ nonsense'!r}{text[leaf.end_mark.index :]}"
    place = (leaf.start_mark.line + 1, leaf.start_mark.column + 1)
    about = [one for one in check_text(spoiled, "f").problems if "nonsense" in one.what]
    assert all((one.line, one.column) == place for one in about)


def _leaves(node: yaml.Node | None) -> list[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        return [node]
    if isinstance(node, yaml.MappingNode):
        return [leaf for _, value in node.value for leaf in _leaves(value)]
    return [leaf for item in node.value for leaf in _leaves(item)] if node is not None else []
