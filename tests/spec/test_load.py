"""Files in, specs or one SpecError out: whatever the file holds."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import (
    Cluster,
    ExitCode,
    Scenario,
    SpecError,
    TrainJob,
    check_file,
    check_text,
    load_file,
    load_one,
    load_text,
)
from orchestrator.spec.reader import MAX_BYTES
from tests.spec.documents import ALL, CLUSTER, JOB, SCENARIO, spoil


@pytest.fixture
def write(tmp_path: Path):
    def to_file(content: str | bytes, name: str = "f.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def test_a_file_of_several_documents_gives_them_in_order(write) -> None:
    specs = load_file(write(f"{JOB}---\n{SCENARIO}"))
    assert [type(spec) for spec in specs] == [TrainJob, Scenario]


def test_a_byte_order_mark_and_windows_line_ends_are_read(write) -> None:
    (job,) = load_file(write(b"\xef\xbb\xbf" + JOB.replace("\n", "\r\n").encode()))
    assert job.metadata.name == "j"


def test_load_one_gives_the_one(write) -> None:
    assert load_one(write(CLUSTER), Cluster).spec.pools[0].name == "p"


def test_load_one_refuses_another_kind_and_further_documents(write) -> None:
    path = write(f"{JOB}---\n{SCENARIO}")
    with pytest.raises(SpecError) as error:
        load_one(path, TrainJob)
    assert str(error.value) == (
        f"{path}: E111 holds TrainJob, Scenario; it must hold one TrainJob and nothing else. "
        "Run 'tide schema --help' for the kinds."
    )
    with pytest.raises(SpecError, match="holds Scenario"):
        load_one(write(SCENARIO), TrainJob)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(SpecError) as error:
        load_file(path)
    assert str(error.value) == (
        f"{path}: E101 cannot be read (no such file or directory); it must be a YAML file. "
        "Check the path and its permissions."
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a: \xff", "is not UTF-8 (byte 3, line 1)"),
        (b"a: 1\n" * (MAX_BYTES // 5 + 1), "is larger than 256 KiB"),
    ],
)
def test_a_file_that_is_no_text_or_too_long_is_told(write, content: bytes, what: str) -> None:
    (problem,) = check_file(write(content)).problems
    assert (problem.code, problem.what) == ("E101", what)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (problem,) = check_file(tmp_path).problems
    assert problem.what == "cannot be read (is a directory)"


def test_a_path_that_no_system_has_is_told() -> None:
    (problem,) = check_file("a\0b").problems
    assert (problem.code, problem.what) == ("E101", "is not a path")


def test_an_error_carries_all_problems_and_the_exit_code_and_pickles() -> None:
    with pytest.raises(SpecError) as caught:
        load_text(spoil(JOB, "  steps: x", "  strict: y", "  priority: z"), "f")
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    assert [problem.path for problem in error.problems] == ["steps", "strict", "priority"]
    assert (again.problems, again.code, str(again)) == (error.problems, ExitCode.INVALID, str(error))
    assert str(error).count("\n") == 2
    assert error.where == "f:9:10"


def test_a_key_that_would_break_the_line_is_shown_escaped() -> None:
    (problem,) = check_text(spoil(JOB, '  args: {"a\\n\\e[2J": .nan}'), "f").problems
    assert problem.path == r"args.'a\n\x1b[2J'"


def test_problems_come_in_the_order_of_their_places() -> None:
    problems = check_text(spoil(JOB, "  strict: y", "  workers: {min: 0, max: 0}", "metadata: {name: A}"), "f").problems
    places = [(problem.line, problem.column) for problem in problems]
    assert places == sorted(places)
    assert len(places) == 4


def test_documents_of_others_are_counted_only_where_they_may_be() -> None:
    others = "apiVersion: v1\nkind: Pod\n---\n- a list\n---\ngroups: []\n"
    report = check_text(f"{others}---\n{JOB}", "f", skip_foreign=True)
    assert (len(report.specs), report.problems, report.num_foreign) == (1, (), 3)
    assert len(check_text(others, "f").problems) > 3


@pytest.mark.parametrize(
    "text", ["kind: TrainJob\n", "apiVersion: tideline/v2\nkind: X\n", "apiVersion: tidelin/v1\nkind: Merge\n"]
)
def test_a_document_that_means_to_be_ours_is_never_skipped(text: str) -> None:
    report = check_text(text, "f", skip_foreign=True)
    assert report.num_foreign == 0
    assert report.problems


def _never_crashes(text: str) -> None:
    report = check_text(text, "f")
    assert report.specs or report.problems
    for problem in report.problems:
        assert problem.what
        assert problem.want
        str(problem).encode()
    if report.problems:
        with pytest.raises(SpecError):
            load_text(text)


@given(st.text())
def test_any_text_gives_specs_or_a_spec_error(text: str) -> None:
    _never_crashes(text)


YAML_WORDS = st.sampled_from(
    [*"{}[]:,-#&*!|>'\"%@`~?\n \t", "<<: ", "---\n", "&a ", "*a", "!!int ", "null", "1e999", "é"]
)


@given(st.sampled_from(sorted(ALL)), st.randoms(use_true_random=False), st.lists(YAML_WORDS, min_size=1, max_size=4))
def test_a_document_with_holes_and_additions_gives_specs_or_a_spec_error(
    kind: str, chance: random.Random, additions: list[str]
) -> None:
    text = ALL[kind]
    for addition in additions:
        start = chance.randrange(len(text))
        text = text[:start] + addition + text[start + chance.choice((0, 0, 1, 5)) :]
    _never_crashes(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_any_value_in_any_place_gives_specs_or_a_spec_error(data: st.DataObject) -> None:
    document = yaml.safe_load(ALL[data.draw(st.sampled_from(sorted(ALL)))])
    places = list(_places(document))
    around, key = data.draw(st.sampled_from(places))
    around[key] = data.draw(JSON)
    _never_crashes(json.dumps(document))


def _places(value):
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield value, key
        yield from _places(item)
