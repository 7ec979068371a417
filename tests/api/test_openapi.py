"""Whatever a client sends, the application answers as its OpenAPI document says, and never with a 500.

schemathesis makes the requests from the document: right ones, and wrong ones of every kind. In process, a bounded
number of examples of each route, the same ones every time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
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

import tests
from orchestrator.adapters.jobs.door import Door
from orchestrator.api.guard import Entrance, Guard
from orchestrator.service.visits import Visits
from tests.api.world import ApiWorld
from tests.ledger.world import new

_EXAMPLES = 6
schemathesis.serializer.alias("application/gzip", "application/octet-stream")
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    world, jobs = ApiWorld(tmp_path_factory.mktemp("api")), tmp_path_factory.mktemp("jobs")
    world.service.visits = Visits(jobs)
    doors = [Door(jobs / name) for name in ("a", "b")]  # behind which nobody is
    for name, door in zip(("a", "b"), doors, strict=True):
        (jobs / name).mkdir()
        door.open()
    world.world.ledger.submit(*(new(name, (1, 2)) for name in ("a", "b")))
    world.run(2)
    _prepare(world.app.openapi())
    world.app.add_middleware(Guard, service=world.service, entrance=Entrance.SOCKET)
    yield world.app
    for door in doors:
        door.close()
    world.close()


def _prepare(document: dict[str, Any]) -> None:
    """Streams of things that never end would never be answered; names that are there get further than others."""
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "follow":
                    parameter["schema"] = {"const": False}
                elif parameter["name"] == "job" and parameter["in"] == "path":
                    parameter["schema"] = {"enum": ["a", "b", "a.1", "nobody"]}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_the_documents(app: FastAPI, mode: GenerationMode) -> None:
    operations = [each.ok() for each in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) == 39
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


def test_every_kind_that_is_sent_is_in_the_document(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    assert {"TrainJob", "Cluster", "ProblemDocument"} <= schemas.keys()
    assert "HTTPValidationError" not in schemas


def test_every_address_is_on_the_page_for_people(app: FastAPI) -> None:
    page = (Path(tests.__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^` ]+)`", page))
    there = {f"{method.upper()} {path}" for path, of in app.openapi()["paths"].items() for method in of}
    assert named == there
