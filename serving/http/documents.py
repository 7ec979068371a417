"""What the OpenAPI document says about answers: OpenAI's shapes, roughly, and every error in one."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT},
        }
    },
}
_MEANINGS = {
    400: "Something in the request is wrong; `param` names it.",
    401: "No API key, or one that is not known.",
    403: "The API key does not open this.",
    404: "There is no such thing.",
    405: "The route has no such method.",
    408: "The time that the request allowed is over; not to be repeated.",
    409: "Contradicts what is there.",
    413: "The body is too large.",
    429: "Not now; `retry-after-ms` says when.",
    503: "This replica cannot answer.",
}


def json_body(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An answer of one JSON document."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(name: str, *required: str) -> dict[str, Any]:
    return {"type": "object", "required": ["object", *required], "properties": {"object": {"const": name}}}


def page_of(item: dict[str, Any]) -> dict[str, Any]:
    """A list of `item`."""
    data = {"data": {"type": "array", "items": item}, "object": {"const": "list"}}
    return {"type": "object", "required": ["object", "data"], "properties": data}


# FastAPI documents 422 for bodies that it checks; ours answer 400, and 422 never comes.
ERRORS: Responses = {status: json_body(text, _ERROR) for status, text in _MEANINGS.items()}
FILE_OBJECT = _object("file", "id", "bytes", "created_at", "filename", "purpose", "status")
BATCH_OBJECT = _object("batch", "id", "endpoint", "input_file_id", "completion_window", "status", "request_counts")
MODEL: Responses = {200: json_body("The model.", _object("model", "id", "created", "owned_by"))}
MODELS: Responses = {200: json_body("The models.", page_of(_object("model", "id", "created", "owned_by")))}
FILE: Responses = {200: json_body("The file.", FILE_OBJECT)}
FILES: Responses = {200: json_body("Files.", page_of(FILE_OBJECT))}
DELETED: Responses = {200: json_body("It is gone.", _object("file", "id", "deleted"))}
BATCH: Responses = {200: json_body("The batch.", BATCH_OBJECT)}
BATCHES: Responses = {200: json_body("Batches.", page_of(BATCH_OBJECT))}
CONTENT: Responses = {
    200: {"description": "The bytes.", "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
}
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


def streamed(name: str, *, event_stream: bool = True) -> Responses:
    """A whole answer, or (`stream: true`) server-sent events."""
    answer = json_body("The answer.", _object(name, "model", "usage"))
    if event_stream:
        # Of each event; `data` is a chunk as JSON, and `[DONE]` at the end.
        event = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
        answer["content"]["text/event-stream"] = {"schema": event}
    return {200: answer}
