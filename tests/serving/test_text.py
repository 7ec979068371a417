"""Answer text: whole characters only, and nothing of a stop string ever leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.text import AnswerText, ByteTokenizer


def pieces(content: bytes, stop: list[str]) -> tuple[list[str], bool]:
    text = AnswerText(ByteTokenizer().decoder(), stop)
    out = []
    for token in content:
        out.append(text.push(token))
        if text.stopped:
            return out, True
    out.append(text.finish())
    return out, text.stopped


def test_a_character_of_several_bytes_comes_whole() -> None:
    assert pieces("aé€".encode(), [])[0] == ["a", "", "é", "", "", "€", ""]


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert "".join(pieces(b"a\xffb\xe2\x82", [])[0]) == "a�b�"


def test_text_that_could_become_a_stop_string_is_held_back_and_then_released() -> None:
    assert pieces(b"a\n\nb", ["\n\nc"])[0] == ["a", "", "", "\n\nb", ""]
    assert pieces(b"a\n\n", ["\n\nc"]) == (["a", "", "", "\n\n"], False)


@pytest.mark.parametrize(
    ("content", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aab", ["ab"], "a"),
        ("stop", ["stop"], ""),
        ("überé", ["é"], "über"),
    ],
)
def test_an_answer_ends_before_its_first_stop_string(content: str, stop: list[str], expected: str) -> None:
    out, stopped = pieces(content.encode(), stop)
    assert ("".join(out), stopped) == (expected, True)


@given(st.text(alphabet="ab\n€", max_size=30), st.lists(st.text(alphabet="ab\n€", min_size=1, max_size=4), max_size=4))
def test_streamed_text_is_the_whole_text_cut_where_the_first_stop_string_was_complete(
    content: str, stop: list[str]
) -> None:
    out, stopped = pieces(content.encode(), stop)
    found = [(content.find(each) + len(each), content.find(each)) for each in stop if each in content]
    assert ("".join(out), stopped) == (content[: min(found)[1]] if found else content, bool(found))


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        ByteTokenizer().encode("\ud800")
