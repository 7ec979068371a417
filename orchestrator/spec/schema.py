"""JSON Schemas of the kinds, for editors: what a key means and what its value looks like.

A schema describes a file as an editor parses it. It is looser than the loader where a schema cannot say it
(cross-field checks, time zones, cron lines), and stricter only where the loader forgives (a count in quotes).
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, NoDefault

from orchestrator.spec.kinds import KINDS

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
    schema = KINDS[kind].model_json_schema(schema_generator=_Generator, mode="validation")
    # Code may leave these out; a file may not, because they tell the loader what the document is.
    schema["required"] = ["apiVersion", "kind", *schema["required"]]
    return {"$schema": DIALECT, **schema, "title": kind}
