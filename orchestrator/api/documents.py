"""Bodies to specs: JSON by a short way, YAML and whatever is wrong by the loader that names line and column.

JSON's numbers and words are given to the models as the text that was sent, as the loader does with YAML: both formats
mean the same.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.ledger.submission import Holder
from orchestrator.spec import Cluster, Endpoint, SpecError, Study, TrainJob, load_text
from orchestrator.spec.base import API_VERSION
from orchestrator.spec.errors import ExitCode
from orchestrator.spec.problems import Code, FindingsError, Problem
from orchestrator.spec.reader import MAX_BYTES, MAX_DEPTH
from orchestrator.spec.scalars import Plain, shown

K = TypeVar("K", TrainJob, Endpoint, Study, Cluster)
MAX_DOCUMENT_BYTES = MAX_BYTES
MAX_BATCH = 2_000
MAX_BATCH_BYTES = 16 * 2**20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON, _YAML = "application/json", ("application/yaml", "application/x-yaml", "text/yaml")


class _OddError(Exception):
    """The short way does not know this: the loader will say what is wrong."""


async def read_one(request: Request, kind: type[K], *, now: dt.datetime, tenant: str | None = None) -> K:
    """The one document of a body. `tenant` is written where the document names none.

    Raises: SpecError with every problem; ApiError (400, 415).
    """
    body = await request.body()
    text = _decoded(body)
    if _media_type(request) == _JSON:
        return parse_json(text, kind, now=now, tenant=tenant)
    spec = _only(load_text(text, "body", now=now), kind)
    return _with_tenant(spec, tenant)


async def read_holder(request: Request, *, now: dt.datetime, tenant: str | None = None) -> Holder:
    """As `read_one`, for whatever can be submitted: the document's kind says what it is."""
    body = await request.body()
    text = _decoded(body)
    if _media_type(request) == _JSON:
        match _kind_in(_loads(text)):
            case "Endpoint":
                return parse_json(text, Endpoint, now=now, tenant=tenant)
            case "Study":
                return parse_json(text, Study, now=now, tenant=tenant)
            case _:
                return parse_json(text, TrainJob, now=now, tenant=tenant)
    specs = load_text(text, "body", now=now)
    if len(specs) == 1 and isinstance(specs[0], Endpoint):
        return _with_tenant(specs[0], tenant)
    if len(specs) == 1 and isinstance(specs[0], Study):
        return _with_tenant(specs[0], tenant)
    return _with_tenant(_only(specs, TrainJob), tenant)


def _kind_in(data: Any) -> str:
    return str(data.get("kind")) if isinstance(data, dict) else ""


async def read_batch(request: Request) -> list[Any]:
    """The items of a batch, as `json.loads` gives them with numbers as text. Raises: ApiError."""
    if _media_type(request) != _JSON:
        raise _media_problem("application/json")
    body = await request.body()
    data = _loads(_decoded(body))
    items = data.get("items") if isinstance(data, dict) else None
    if not isinstance(items, list) or set(data) != {"items"}:
        detail = "a batch must be an object with the one key 'items', a list of TrainJobs"
        raise ApiError(422, ProblemCode.INVALID, detail, exit_code=ExitCode.INVALID, where="body")
    if not 1 <= len(items) <= MAX_BATCH:
        detail = f"{len(items):,} jobs in one request; it must be 1..{MAX_BATCH:,}"
        step = f"Send them in requests of {MAX_BATCH:,} or fewer, each with an Idempotency-Key of its own"
        raise ApiError(422, ProblemCode.INVALID, detail, exit_code=ExitCode.INVALID, where="body.items", next_step=step)
    return items


def parse_items(items: list[Any], *, now: dt.datetime, tenant: str | None) -> list[TrainJob]:
    """TrainJobs of a batch. Raises: SpecError with the problems of every item."""
    jobs: list[TrainJob] = []
    problems: list[Problem] = []
    for at, item in enumerate(items):
        try:
            jobs.append(_quickly(item, TrainJob, now, tenant))
        except (_OddError, ValidationError, FindingsError):
            problems += _said_of_item(item, at, now)
            if len(problems) >= 100:
                break
    if problems:
        raise SpecError(tuple(problems))
    return jobs


def parse_json(text: str, kind: type[K], *, now: dt.datetime, tenant: str | None = None) -> K:
    """A document of one kind from JSON. Raises: SpecError; ApiError (400)."""
    data = _loads(text)
    try:
        return _quickly(data, kind, now, tenant)
    except (_OddError, ValidationError, FindingsError):
        # The loader says the same, with places; what it does not object to is right after all.
        return _with_tenant(_only(load_text(text, "body", now=now), kind), tenant)


def _quickly(data: Any, kind: type[K], now: dt.datetime, tenant: str | None) -> K:
    if not isinstance(data, dict) or data.get("apiVersion") != API_VERSION or data.get("kind") != kind.__name__:
        raise _OddError
    _check_depth(data)
    metadata = data.get("metadata")
    if tenant is not None and isinstance(metadata, dict):
        metadata.setdefault("tenant", tenant)
    spec = kind.model_validate(data)
    if any(True for _ in spec.time_findings(now)):
        raise _OddError
    return spec


def _check_depth(value: Any, left: int = MAX_DEPTH) -> None:
    if left < 0:
        raise _OddError
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, dict | list):
            _check_depth(one, left - 1)


def _loads(text: str) -> Any:
    """JSON with its numbers as text. Raises: ApiError (400)."""
    if _SURROGATE.search(text):
        _refuse_half_pairs(text)
    try:
        return json.loads(
            text, parse_int=Plain, parse_float=Plain, parse_constant=_no_constant, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        detail = f"the body is not JSON: {reason}"
        raise ApiError(400, ProblemCode.USAGE, detail, exit_code=ExitCode.USAGE, where="body") from None


def _refuse_half_pairs(text: str) -> None:
    """A whole pair is a character; half of one is none, and cannot be stored. Raises: ApiError (400)."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        detail = "the body holds half of a surrogate pair"
        raise ApiError(400, ProblemCode.USAGE, detail, exit_code=ExitCode.USAGE, where="body") from None
    except (ValueError, RecursionError):
        return  # what else is wrong with it is said by whoever reads it


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {key: _as_text(value) if type(value) in _CHANGED else value for key, value in pairs}
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return found


_CHANGED = frozenset({bool, list})


def _as_text(value: Any) -> Any:
    """True and false as the words they were, also in lists; objects have been seen by `_once` already."""
    if isinstance(value, bool):
        return Plain("true" if value else "false")
    return [_as_text(one) if type(one) in _CHANGED else one for one in value]


def _said_of_item(item: Any, at: int, now: dt.datetime) -> list[Problem]:
    """What the loader says of one item of a batch, each thing at its path."""
    where = f"body.items[{at}]"
    try:
        _only(load_text(json.dumps(_native(item), indent=1), where, now=now), TrainJob)
    except SpecError as error:
        return list(error.problems)
    except RecursionError:
        pass
    return [
        Problem(where, 0, 0, Code.WRONG_SHAPE, "", "is no TrainJob", "it must be one", "Run 'tide schema TrainJob'")
    ]


def _native(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _native(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_native(item) for item in value]
    return value.typed() if isinstance(value, Plain) else value


def _only(specs: tuple[Any, ...], kind: type[K]) -> K:
    if len(specs) == 1 and isinstance(specs[0], kind):
        return specs[0]
    names = ", ".join(type(spec).__name__ for spec in specs)
    want = f"it must hold one {kind.__name__} and nothing else"
    raise SpecError((Problem("body", 0, 0, Code.WRONG_KIND, "", f"holds {names}", want, "Send each by itself"),))


def _with_tenant(spec: K, tenant: str | None) -> K:
    if tenant is None or spec.metadata.was_set("tenant"):
        return spec
    metadata = spec.metadata.model_copy(update={"tenant": tenant})
    return spec.model_copy(update={"metadata": metadata})


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"the body is not UTF-8: {error.reason} at byte {error.start}"
        raise ApiError(400, ProblemCode.USAGE, detail, exit_code=ExitCode.USAGE, where="body") from None


def _media_type(request: Request) -> str:
    # Nothing that a web page can send without asking first is read.
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found == _JSON or found in _YAML:
        return found
    raise _media_problem("application/json or application/yaml")


def _media_problem(wanted: str) -> ApiError:
    detail = f"the body must be {wanted}, and content-type must say so"
    return ApiError(415, ProblemCode.MEDIA_TYPE, detail, exit_code=ExitCode.USAGE, where="header content-type")
