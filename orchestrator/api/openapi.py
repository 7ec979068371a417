"""The OpenAPI document: what FastAPI collects, with the kinds' own JSON Schemas as request bodies."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from orchestrator.api.problems import ProblemDocument
from orchestrator.spec.schema import json_schema

_DESCRIPTION = (
    "The control plane of Tideline. Errors are problem documents (RFC 9457) whose `code` is for programs. Times are "
    "ISO 8601 in UTC, money is a decimal string of US dollars. Submissions take an Idempotency-Key."
)


def document_body(*kinds: str) -> dict[str, Any]:
    """A request body that is one document of one of these kinds, as JSON or YAML."""
    schemas: list[dict[str, Any]] = [{"$ref": f"#/components/schemas/{kind}"} for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    content = {"application/json": {"schema": schema}, "application/yaml": {"schema": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": content}}


def items_body(kind: str, most: int) -> dict[str, Any]:
    """A request body that is a list of documents of a kind."""
    schema = {
        "type": "object",
        "required": ["items"],
        "additionalProperties": False,
        "properties": {
            "items": {
                "type": "array",
                "minItems": 1,
                "maxItems": most,
                "items": {"$ref": f"#/components/schemas/{kind}"},
            }
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@functools.cache
def _kind_schemas() -> dict[str, Any]:
    """The schemas of the kinds that are sent, and of their parts, under names of their own."""
    found: dict[str, Any] = {}
    for kind in ("TrainJob", "Endpoint", "Study", "Cluster"):
        schema = json_schema(kind)
        parts = schema.pop("$defs", {})
        schema.pop("$schema", None)
        for name, part in {kind: schema, **{f"{kind}.{name}": part for name, part in parts.items()}}.items():
            found[name] = _moved(part, kind)
    return found


def _moved(value: Any, kind: str) -> Any:
    if isinstance(value, dict):
        return {key: _reference(one, kind) if key == "$ref" else _mapping(key, one, kind) for key, one in value.items()}
    return [_moved(one, kind) for one in value] if isinstance(value, list) else value


def _mapping(key: str, value: Any, kind: str) -> Any:
    if key == "mapping" and isinstance(value, dict):  # of a discriminator
        return {name: _reference(one, kind) for name, one in value.items()}
    return _moved(value, kind)


def _reference(text: Any, kind: str) -> Any:
    return text.replace("#/$defs/", f"#/components/schemas/{kind}.") if isinstance(text, str) else _moved(text, kind)


def install(app: FastAPI) -> None:
    """Make `app.openapi()` answer the whole document, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs", {}))
            schemas["ProblemDocument"] = problem
            schemas.update(_kind_schemas())
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}, {}]
            _only_problems(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _only_problems(document: dict[str, Any]) -> None:
    """FastAPI documents errors in a form of its own; ours leave as problem documents."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if status.startswith(("4", "5")) and "application/problem+json" in content:
                    content.pop("application/json", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
