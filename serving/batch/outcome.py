"""Lines of output and error files, in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serving.batch.records import LeasedRow, RowError, RowResult

_MESSAGES: Mapping[str, str] = {
    RowError.EXPIRED: "the batch's completion window ended before this request was done",
    RowError.CANCELLED: "the batch was cancelled before this request was done",
    RowError.RETRIES_EXHAUSTED: "every replica that took this request died with it",
}


def result_line(row: LeasedRow, result: RowResult) -> bytes:
    """The line of a row that was answered."""
    request_id = _request_id(row.batch_id, row.index)
    response = {"status_code": result.status_code, "request_id": request_id, "body": result.body}
    return _line(request_id, row.custom_id, response, None)


def error_line(row: Any) -> bytes:
    """The line of a stored row (its `batch_id`, `idx`, `custom_id`, `error`) that never got an answer.

    A row whose answer has been deleted has no line.
    """
    if row.error is None:
        return b""
    error = {"code": row.error, "message": _MESSAGES[row.error]}
    return _line(_request_id(row.batch_id, row.idx), row.custom_id, None, error)


def _request_id(batch_id: str, index: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_{index}"


def _line(request_id: str, custom_id: str, response: Any, error: Any) -> bytes:
    document = {"id": request_id, "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
