"""The JSON Schemas accept what the loader accepts, in the examples and in spoiled documents, and say what keys mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.spec import KINDS, check_text
from orchestrator.spec.nodes import to_python
from orchestrator.spec.reader import read_documents
from orchestrator.spec.scalars import parse_core
from orchestrator.spec.schema import json_schema
from tests.spec.documents import ALL, spoil

EXAMPLES = Path(__file__).resolve().parents[2] / "cluster-configs" / "examples"


def as_an_editor_sees(text: str) -> list[Any]:
    """The documents as a YAML 1.2 parser types them."""
    return [parse_core(to_python(document)) for document in read_documents(text).documents]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_a_schema(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(kind))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_fit_their_schema(path: Path) -> None:
    for document in as_an_editor_sees(path.read_text(encoding="utf-8")):
        jsonschema.validate(document, json_schema(document["kind"]))


@pytest.mark.parametrize(("kind", "text"), ALL.items(), ids=ALL)
def test_the_small_documents_fit_their_schema(kind: str, text: str) -> None:
    jsonschema.validate(as_an_editor_sees(text)[0], json_schema(kind))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("TrainJob", "  stepz: 1"),
        ("TrainJob", "  steps: 0"),
        ("TrainJob", "  hang_timeout: 90"),
        ("TrainJob", "  hang_timeout: 10min"),
        ("TrainJob", "  deadline: 2026-03-01T06:00:00"),
        ("TrainJob", "  on_nan: skipp"),
        ("TrainJob", "  task: my.code.task"),
        ("TrainJob", "  data: {dataset: no-version}"),
        ("TrainJob", "  checkpoint: {storage: /var/lib/x}"),
        ("TrainJob", "  budget: {usd: $5}"),
        ("TrainJob", "metadata: {name: night/ly}"),
        ("Cluster", "  ray: {address: head}"),
        ("Study", "  searcher: {name: tpee}"),
        ("Study", "  scheduler: {name: none, grace_steps: 1}"),
        ("Scenario", "  policy: gredy"),
        ("Merge", "apiVersion: tideline/v2"),
    ],
)
def test_a_schema_refuses_what_the_loader_refuses(kind: str, line: str) -> None:
    text = spoil(ALL[kind], line)
    assert check_text(text, "f").problems
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(as_an_editor_sees(text)[0], json_schema(kind))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("TrainJob", "  deadline: 2026-03-01T06:00:00+01:00"),
        ("TrainJob", "  budget: {usd: 12.5, kwh: 3}"),
        ("TrainJob", '  optimizer: {lr: "3e-4", eps: 1e-8}'),
        ("TrainJob", "  runtime: {env: {WORKERS: 4, FLAG: true}}"),
        ("TrainJob", "  window: null"),
        ("Cluster", "  lending: {pools: [p], recall_lead: 250ms}"),
        ("Scenario", "  policy: trailing-min-90m"),
    ],
)
def test_a_schema_accepts_what_the_loader_accepts(kind: str, line: str) -> None:
    text = spoil(ALL[kind], line)
    assert check_text(text, "f").problems == ()
    jsonschema.validate(as_an_editor_sees(text)[0], json_schema(kind))


def test_kind_and_version_are_required() -> None:
    assert {"apiVersion", "kind", "metadata", "spec"} == set(json_schema("Merge")["required"])


def test_every_key_is_described_and_defaults_are_text_with_units() -> None:
    schema = json_schema("TrainJob")
    models = [schema, *schema["$defs"].values()]
    properties = [(key, one) for model in models for key, one in model.get("properties", {}).items()]
    assert [key for key, one in properties if not one.get("description")] == []
    assert schema["$defs"]["Checkpoint"]["properties"]["every"]["default"] == "10m"
