"""Uploads are checked line by line, and every bad line is told by its number."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest

from serving.batch.upload import LineError, UploadLimits, check_upload
from tests.serving.batch.worlds import LIMITS, line, lines


def check_body(url: str, body: Mapping[str, Any]) -> int:
    if body.get("prompt") == "bad":
        raise LineError("invalid_value", "prompt: is bad", param="body.prompt")
    return len(body["prompt"])


def problems(content: bytes, limits: UploadLimits = LIMITS) -> list[tuple[int, str, str | None]]:
    checked = check_upload(io.BytesIO(content), check_body, limits)
    return [(each.line, each.code, each.param) for each in checked.problems]


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{\n", "invalid_json", None),
        (b"[]\n", "invalid_json", None),
        (b"nonsense\n", "invalid_json", None),
        (b"[" * 4000 + b"\n", "invalid_json", None),
        (b'{"custom_id": "\xff"}\n', "invalid_utf8", None),
        (line(""), "invalid_custom_id", "custom_id"),
        (line("x" * 513), "invalid_custom_id", "custom_id"),
        (line("a\0b"), "invalid_custom_id", "custom_id"),
        (line("\ud800"), "invalid_custom_id", "custom_id"),
        (line("row-0"), "duplicate_custom_id", "custom_id"),
        (line("b", method="GET"), "invalid_method", "method"),
        (line("b", url=5), "invalid_url", "url"),
        (line("b", body=["x"]), "invalid_body", "body"),
        (line("b", extra=1), "unknown_field", "extra"),
        (line("b", body={"prompt": "bad"}), "invalid_value", "body.prompt"),
        (line("b", body={"prompt": "x" * 5000}), "line_too_long", None),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_field(bad: bytes, code: str, param: str | None) -> None:
    assert problems(lines(2) + bad + line("last")) == [(3, code, param)]


def test_every_bad_line_counts_and_the_first_ones_are_told() -> None:
    content = b"{\n" * 7 + lines(1)
    checked = check_upload(
        io.BytesIO(content), check_body, UploadLimits(max_lines=9, max_line_bytes=999, max_problems=2)
    )
    assert ([each.line for each in checked.problems], checked.num_bad) == ([1, 2], 7)


def test_lines_beyond_the_limit_are_bad() -> None:
    assert problems(lines(3), UploadLimits(max_lines=2, max_line_bytes=999)) == [(3, "too_many_lines", None)]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \r\n"])
def test_a_file_without_a_request_is_refused(content: bytes) -> None:
    assert problems(content) == [(1, "empty_file", None)]


@pytest.mark.parametrize(
    "content",
    [lines(3), lines(3).rstrip(), b"\n" + lines(2) + b"\n\n" + line("z"), b"\r\n".join(lines(3).split(b"\n"))],
)
def test_good_lines_cover_the_upload_byte_by_byte(content: bytes) -> None:
    """Blank lines and any line ends included: the stored pieces joined are the file."""
    checked = check_upload(io.BytesIO(content), check_body, LIMITS)
    assert b"".join(content[each.start : each.stop] for each in checked.lines) == content
    assert (len(checked.lines), checked.num_bytes, checked.problems) == (3, len(content), ())
    assert [each.tokens for each in checked.lines] == [1, 1, 1]
