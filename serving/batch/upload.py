"""Check an uploaded batch file line by line, before anything of it is stored. Pure but for reading the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from serving.batch.records import InputLine, LineProblem

_FIELDS = ("custom_id", "method", "url", "body")
_MAX_CUSTOM_ID = 512
_EMPTY = 'the file holds no request; a line is {"custom_id": ..., "method": "POST", "url": ..., "body": {...}}'


class LineError(Exception):
    """A line that is wrong; `param` is the field."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


# (url, body) -> tokens of prompt and answer, at most. Raises: LineError.
BodyCheck = Callable[[str, Mapping[str, Any]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """What one file may hold. Only the first `max_problems` bad lines are reported; all are counted."""

    max_lines: int
    max_line_bytes: int
    max_problems: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedUpload:
    """Either all lines are good and `problems` is empty, or the file is refused. `num_bad` counts every bad line."""

    lines: tuple[InputLine, ...]
    problems: tuple[LineProblem, ...]
    num_bad: int
    num_bytes: int


def check_upload(file: BinaryIO, check_body: BodyCheck, limits: UploadLimits) -> CheckedUpload:
    """Read the file once from its start."""
    good: list[InputLine] = []
    problems: list[LineProblem] = []
    seen: dict[str, int] = {}
    num_bad, num_bytes = 0, 0
    for number, (start, raw) in enumerate(_read_lines(file, limits.max_line_bytes), start=1):
        num_bytes = start + len(raw)
        if not raw.strip() and len(raw) <= limits.max_line_bytes:
            continue  # a blank line, such as one after the last row
        try:
            good.append(_check_line(raw, start, number, seen, check_body, limits))
        except LineError as error:
            num_bad += 1
            if len(problems) < limits.max_problems:
                problems.append(LineProblem(line=number, code=error.code, message=error.message, param=error.param))
    if not good and not problems:
        problems, num_bad = [LineProblem(line=1, code="empty_file", message=_EMPTY)], 1
    return CheckedUpload(lines=_joined(good, num_bytes), problems=tuple(problems), num_bad=num_bad, num_bytes=num_bytes)


def parse_line(raw: bytes) -> dict[str, Any]:
    """A line as JSON. Raises: LineError."""
    try:
        document = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LineError("invalid_utf8", f"byte {error.start} of the line is not UTF-8") from None
    except RecursionError:
        raise LineError("invalid_json", "the line is nested too deeply") from None
    except ValueError as error:
        raise LineError("invalid_json", f"the line is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise LineError("invalid_json", "the line is no JSON object")
    return document


def _check_line(
    raw: bytes, start: int, number: int, seen: dict[str, int], check_body: BodyCheck, limits: UploadLimits
) -> InputLine:  # fmt: skip
    if number > limits.max_lines:
        raise LineError("too_many_lines", f"a file may hold {limits.max_lines:,} requests")
    if len(raw) > limits.max_line_bytes:
        raise LineError("line_too_long", f"the line is longer than {limits.max_line_bytes:,} bytes")
    document = parse_line(raw)
    custom_id = _custom_id(document, seen, number)
    for name in document:
        if name not in _FIELDS:
            raise LineError(
                "unknown_field",
                f"{name!r} is not a field of a batch line; {', '.join(_FIELDS)} are",
                param=_shown(name),
            )
    if document.get("method") != "POST":
        raise LineError("invalid_method", f"method is {document.get('method')!r}; it must be POST", param="method")
    url, body = document.get("url"), document.get("body")
    if not isinstance(url, str):
        raise LineError("invalid_url", "url must be text", param="url")
    if not isinstance(body, dict):
        raise LineError("invalid_body", "body must be a JSON object", param="body")
    return InputLine(
        start=start, stop=start + len(raw), custom_id=custom_id, url=url, tokens=check_body(url, body)
    )  # fmt: skip


def _custom_id(document: Mapping[str, Any], seen: dict[str, int], number: int) -> str:
    value = document.get("custom_id")
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_CUSTOM_ID or not is_storable(value):
        raise LineError("invalid_custom_id", f"custom_id must be text of 1 to {_MAX_CUSTOM_ID} characters",
                        param="custom_id")  # fmt: skip
    first = seen.setdefault(value, number)
    if first != number:
        raise LineError("duplicate_custom_id", f"custom_id {value!r} is in line {first} already", param="custom_id")
    return value


def is_storable(value: str) -> bool:
    """Whether a database and an answer can hold the text: no lone surrogates, no NUL."""
    return "\0" not in value and not any(0xD800 <= ord(character) <= 0xDFFF for character in value)


def _shown(name: str) -> str | None:
    return name if name.isidentifier() else None


def _read_lines(file: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each line with its end; of one that is too long, only as much as shows that."""
    file.seek(0)
    start = 0
    while raw := file.readline(max_line_bytes + 1):
        size = len(raw)
        while not raw.endswith(b"\n") and (more := file.readline(2**16)):  # the rest of a long line
            size += len(more)
            if more.endswith(b"\n"):
                break
        yield start, raw
        start += size


def _joined(lines: list[InputLine], num_bytes: int) -> tuple[InputLine, ...]:
    """The same lines, each reaching to the next one, so that blank lines are kept and the bytes are the upload's."""
    starts = [0, *(line.start for line in lines[1:]), num_bytes]
    return tuple(
        InputLine(start=start, stop=stop, custom_id=line.custom_id, url=line.url, tokens=line.tokens)
        for line, start, stop in zip(lines, starts, starts[1:], strict=False)
    )
