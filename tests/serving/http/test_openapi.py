"""Whatever a client sends, the application answers as its OpenAPI document says, and never with a 500.

schemathesis makes the requests from the document: right ones, and wrong ones of every kind. In process, a bounded
number of examples of each route, the same ones every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.engine.echo import EchoEngine
from serving.http.app import HttpConfig, assemble
from tests.serving.http.server import RUNNER, running_service

_EXAMPLES = 8
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    folder = tmp_path_factory.mktemp("store")
    with running_service(EchoEngine(max_context=64), folder=folder) as service:
        assembled = assemble(service, HttpConfig(max_body_bytes=64 * 1024), RUNNER)
        assert assembled.runner is not None
        assembled.runner.start()
        _name_the_model(assembled.app.openapi())
        yield assembled.app
        assembled.runner.drain()


def _name_the_model(document: dict[str, Any]) -> None:
    """Or nearly every request would ask for a model that is not served, and get no further."""
    for name, schema in document["components"]["schemas"].items():
        if "model" in schema.get("properties", {}):
            assert name in ("CompletionBody", "ChatBody", "EmbeddingBody")
            schema["properties"]["model"] = {"const": "gpt-demo"}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_the_documents(app: FastAPI, mode: GenerationMode) -> None:
    operations = [each.ok() for each in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) == 17
    for operation in operations:
        try:
            strategy = operation.as_strategy(generation_mode=mode)
            _exercise(strategy)
        except Unsatisfiable:  # nothing of a route without input can be wrong
            assert mode is GenerationMode.NEGATIVE
            assert not list(operation.body)


def _exercise(strategy: SearchStrategy[Any]) -> None:
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        case.call_and_validate(checks=_CHECKS)

    ask()
