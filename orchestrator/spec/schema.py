"""JSON Schemas of the kinds, for editors: what a key means and what its value looks like.

A schema describes a file as an editor parses it. It is looser than the loader where a schema cannot say it
(cross-field checks, time zones, cron lines), and stricter only where the loader forgives (a count in quotes).
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, NoDefault

from orchestrator.spec.kinds import KINDS
from orchestrator.spec.shape import reachable

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Writes defaults as files have them, and leaves out titles made of key names: editors show the key already."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def get_default_value(self, schema: Any) -> Any:
        default = super().get_default_value(schema)
        render = schema["schema"].get("serialization", {}).get("function")
        return render(default) if render and default is not NoDefault else default


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind.

    Raises: KeyError when there is no such kind.
    """
    root = KINDS[kind]
    schema = root.model_json_schema(schema_generator=_Generator, mode="validation")
    for model in reachable(root):
        _describe(schema if model is root else schema["$defs"][model.__name__], key_descriptions(model))
    # Code may leave these out; a file may not, because they tell the loader what the document is.
    schema["required"] = ["apiVersion", "kind", *schema["required"]]
    return {"$schema": DIALECT, **schema, "title": kind}


def key_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The texts that stand below a model's keys in its source.

    Pydantic can collect them when a class is made; that would cost a third of the time it takes to import this room.
    """
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
            assert isinstance(definition, ast.ClassDef)
            for key, below in itertools.pairwise(definition.body):
                match key, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[name] = inspect.cleandoc(text)
    return found


def _describe(definition: dict[str, Any], texts: dict[str, str]) -> None:
    for key, shape in definition["properties"].items():
        form = shape.get("description")
        shape["description"] = f"{texts[key]} {form}" if form else texts[key]
