"""The types of fields: each an annotation that tells pydantic how to read text, how to write it, and its JSON Schema.

Models only say what a field is (`Duration`, `Name`, `Whole(1, 100)`); how text becomes that lives in the parsers.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from orchestrator.spec import names, quantities, scalars, times
from orchestrator.spec.problems import BadValueError, Code

JsonSchema = dict[str, Any]
_NUMERIC_TEXT = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True, slots=True)
class Typed:
    """A scalar's parser, its renderer for files and JSON, and its JSON Schema."""

    parse: Callable[[Any], Any]
    schema: Callable[[], JsonSchema]
    render: Callable[[Any], Any] = lambda value: value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        rendered = core_schema.plain_serializer_function_ser_schema(self.render, when_used="json-unless-none")
        return core_schema.no_info_plain_validator_function(self.parse, serialization=rendered)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return self.schema()


def _text(pattern: str, description: str) -> Callable[[], JsonSchema]:
    return lambda: {"type": "string", "pattern": pattern, "description": description}


def whole(low: int | None = None, high: int | None = None) -> Typed:
    """A whole number in low..high."""
    bounds = {"minimum": low, "maximum": high}
    schema = {"type": "integer", **{name: bound for name, bound in bounds.items() if bound is not None}}
    return Typed(functools.partial(scalars.parse_whole, low=low, high=high), lambda: dict(schema))


def real(low: float | None = None, high: float | None = None, *, above: bool = False) -> Typed:
    """A finite number in low..high, or above low."""
    bounds = {"exclusiveMinimum" if above else "minimum": low, "maximum": high}
    number = {"type": "number", **{name: bound for name, bound in bounds.items() if bound is not None}}
    schema = {"anyOf": [number, {"type": "string", "pattern": _NUMERIC_TEXT}]}
    return Typed(functools.partial(scalars.parse_real, low=low, high=high, above=above), lambda: dict(schema))


class OneOf:
    """Marks a `Literal` of names: the error lists them all and guesses which one was meant."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        allowed = get_args(source)
        return core_schema.no_info_plain_validator_function(functools.partial(parse_one_of, allowed=allowed))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        function: Any = core["function"]
        return {"enum": list(function["function"].keywords["allowed"])}


def parse_one_of(value: object, allowed: tuple[str, ...]) -> str:
    """One of the allowed names, exactly as they are written."""
    want = f"it must be one of {', '.join(allowed)}"
    text = scalars.scalar_text(value, want)
    if text in allowed:
        return text
    raise BadValueError(Code.NOT_ONE_OF, f"{scalars.shown(text)} is not one of them", want, did_you_mean(text, allowed))


def did_you_mean(text: str, known: tuple[str, ...]) -> str:
    """`Did you mean X?`, or nothing when nothing is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(text.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[near[0]]}?" if near else ""


class Listed:
    """Marks a tuple: a YAML list becomes one; a single value or a mapping is refused in our words."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_as_tuple, handler(source))


def _as_tuple(value: object) -> tuple[object, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    code = Code.EMPTY if value is None else Code.WRONG_SHAPE
    what = "is empty" if value is None else f"is {scalars.shown(value)}"
    raise BadValueError(code, what, "it must be a list, such as [a, b]; [] is the empty one")


T = TypeVar("T")
Many = Annotated[tuple[T, ...], Listed()]

Text = Annotated[str, Typed(scalars.parse_text, lambda: {"type": ["string", "number", "boolean"], "minLength": 1})]
Flag = Annotated[bool, Typed(scalars.parse_flag, lambda: {"type": "boolean"})]
Count = Annotated[int, whole(1, 10**12)]
CountOrZero = Annotated[int, whole(0, 10**12)]
Fraction = Annotated[float, real(0, 1)]
Positive = Annotated[float, real(0, above=True)]
NotNegative = Annotated[float, real(0)]
Seed = Annotated[int, whole(0, 2**63 - 1)]
Free = Annotated[Any, Typed(scalars.parse_core, dict)]

_DURATION = _text(quantities.DURATION_PATTERN, "A duration with its unit: 250ms, 90s, 15m, 8h, 2d.")
Duration = Annotated[float, Typed(quantities.parse_duration, _DURATION, quantities.render_duration)]
PositiveDuration = Annotated[
    float,
    Typed(functools.partial(quantities.parse_duration, positive=True), _DURATION, quantities.render_duration),
]
Size = Annotated[
    int,
    Typed(
        functools.partial(quantities.parse_size, positive=True),
        _text(quantities.SIZE_PATTERN, "A size with its unit: 512MiB, 24GiB."),
        quantities.render_size,
    ),
]
Money = Annotated[
    Decimal,
    Typed(
        scalars.parse_money,
        lambda: {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,6}0*)?$"},
                {"type": "number", "minimum": 0},
            ],
            "description": 'US dollars as a decimal string: "5000", "2.40".',
        },
        scalars.render_money,
    ),
]
WallTime = Annotated[
    dt.time,
    Typed(times.parse_clock, _text(times.CLOCK_PATTERN, "A time of day in 24 hours: 22:00."), times.render_clock),
]
Zone = Annotated[str, Typed(times.parse_zone, _text(times.ZONE_PATTERN, "An IANA time zone: Europe/Berlin."))]
Instant = Annotated[
    dt.datetime,
    Typed(
        times.parse_instant,
        _text(times.INSTANT_PATTERN, "A time with date and offset: 2026-03-01T06:00:00+01:00."),
        times.render_instant,
    ),
]
Cron = Annotated[
    str, Typed(times.parse_cron, lambda: {"type": "string", "description": 'Five fields: "0 22 * * 1-5".'})
]
Deadline = Annotated[
    float | dt.datetime,
    Typed(
        times.parse_deadline,
        lambda: {
            "anyOf": [
                {"type": "string", "pattern": quantities.DURATION_PATTERN},
                {"type": "string", "pattern": times.INSTANT_PATTERN},
            ],
            "description": "A duration after submission (8h), or a time with date and offset.",
        },
        times.render_deadline,
    ),
]
Name = Annotated[
    str, Typed(names.parse_name, _text(names.NAME_PATTERN, "Lower-case letters, digits and '-', up to 63."))
]
Reference = Annotated[
    str, Typed(names.parse_reference, _text(names.REFERENCE_PATTERN, "name@version: python-stdlib@latest."))
]
TaskPath = Annotated[
    str, Typed(names.parse_task, _text(names.TASK_PATTERN, "module.path:factory: jobs.models.gpt:task."))
]
StorageUrl = Annotated[
    str, Typed(names.parse_url, _text(names.URL_PATTERN, "A URL of file, s3, gs or abfs: file:///var/lib/tideline."))
]
TopologyPath = Annotated[
    str, Typed(names.parse_topology, _text(names.TOPOLOGY_PATTERN, "Widest first: gcp/us-central1/a/rack3."))
]
Word = Annotated[str, Typed(names.parse_word, _text(names.WORD_PATTERN, "Letters, digits and '_'."))]
ClusterAddress = Annotated[str, Typed(names.parse_address, _text(names.ADDRESS_PATTERN, "auto, local, or host:port."))]
ApiUrl = Annotated[str, Typed(names.parse_api, _text(names.API_PATTERN, "https://host:port of an API server."))]
KeyPath = Annotated[str, Typed(names.parse_key_path, _text(names.KEY_PATH_PATTERN, "A key of a job: optimizer.lr."))]
Requirement = Annotated[
    str,
    Typed(names.parse_requirement, _text(names.REQUIREMENT_PATTERN, "A package with its versions: einops==0.8.1.")),
]
FilePath = Annotated[
    str,
    Typed(
        names.parse_file, lambda: {"type": "string", "minLength": 1, "description": "A path, relative to this file."}
    ),
]

Coupling = Annotated[Literal["tight", "modular", "loose"], OneOf()]
Precision = Annotated[Literal["fp32", "bf16"], OneOf()]
