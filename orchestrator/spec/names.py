"""Names, references and addresses: what may stand where something is named, and what would be a good name instead."""

from __future__ import annotations

import re

from orchestrator.spec.errors import UserError
from orchestrator.spec.problems import BadValueError, Code
from orchestrator.spec.scalars import parse_text, scalar_text, shown

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
JOB_PATTERN = NAME_PATTERN[:-1] + r"(\.[1-9][0-9]{0,8})?$"
"""NAME is its latest run, NAME.N that run."""
_KEPT_PATTERN = JOB_PATTERN[:-1] + r"(~[1-9][0-9]{0,8})?$"
REFERENCE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?@[A-Za-z0-9]([A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?$"
TASK_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
URL_PATTERN = r"^(file:///|s3://|gs://|abfs://)[^\s]+$"
TOPOLOGY_PATTERN = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
WORD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
ADDRESS_PATTERN = r"^(auto|local|[A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5})$"
API_PATTERN = r"^(https://[^\s/@?#]+|http://(127\.[0-9.]+|localhost|\[::1\])(:[0-9]{1,5})?)(/[^\s?#]*)?$"
KEY_PATH_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*$"
_VERSION = r"(===|==|~=|!=|<=|>=|<|>) ?[A-Za-z0-9.*+!_-]+"
REQUIREMENT_PATTERN = (
    r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._,-]+\])? ?(" + _VERSION + "(, ?" + _VERSION + ")*)?$"
)
_NAME_WANT = "it must be 1..63 lower-case letters, digits and '-', with a letter or digit at both ends"
_REFERENCE_WANT = "it must be name@version, such as python-stdlib@latest or gpt-code@3"
_TASK_WANT = "it must be module.path:factory, such as jobs.models.gpt:task"
_URL_WANT = "it must be an absolute URL of file, s3, gs or abfs, such as file:///var/lib/tideline"
_TOPOLOGY_WANT = "it must be places from wide to narrow joined by '/', such as gcp/us-central1/a/rack3"


def parse_name(value: object) -> str:
    """A name that is safe as a folder, a label, a host name and a part of a URL."""
    text = scalar_text(value, _NAME_WANT)
    if matches(NAME_PATTERN, text):
        return text
    better = re.sub(r"[^a-z0-9]+", "-", text.lower())[:63].strip("-")
    advice = f"Did you mean {better}?" if matches(NAME_PATTERN, better) else ""
    what = f"{shown(text)} holds a slash" if "/" in text else f"{shown(text)} is not a name"
    raise BadValueError(Code.BAD_NAME, what, _NAME_WANT, advice)


def parse_reference(value: object) -> str:
    """`name@version` of a data set or model; the version is a number, an alias, `latest` or a hash."""
    text = scalar_text(value, _REFERENCE_WANT)
    if matches(REFERENCE_PATTERN, text):
        return text
    if matches(NAME_PATTERN, text):
        advice = f"Write {text}@latest to follow the newest"
        raise BadValueError(Code.BAD_NAME, f"{shown(text)} names no version", _REFERENCE_WANT, advice)
    raise BadValueError(Code.BAD_NAME, f"{shown(text)} is not a reference", _REFERENCE_WANT)


def split_reference(reference: str) -> tuple[str, str]:
    """(name, version) of a checked reference."""
    name, _, version = reference.partition("@")
    return name, version


def parse_task(value: object) -> str:
    """`module.path:factory`, importable where the job runs."""
    text = scalar_text(value, _TASK_WANT)
    if matches(TASK_PATTERN, text):
        return text
    dotted = re.fullmatch(r"([\w.]+)\.(\w+)", text)
    advice = f"Did you mean {dotted[1]}:{dotted[2]}?" if dotted and ":" not in text else ""
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} does not name a factory", _TASK_WANT, advice)


def parse_url(value: object) -> str:
    """A storage URL that means the same on every node."""
    text = scalar_text(value, _URL_WANT)
    if matches(URL_PATTERN, text):
        return text
    advice = f"Did you mean file://{text}?" if text.startswith("/") else ""
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a storage URL", _URL_WANT, advice)


def parse_topology(value: object) -> str:
    """A path in the tree of places, widest first."""
    text = scalar_text(value, _TOPOLOGY_WANT)
    if matches(TOPOLOGY_PATTERN, text):
        return text
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a topology path", _TOPOLOGY_WANT)


def parse_word(value: object) -> str:
    """A name as programs have it (environment variables, metrics): letters, digits and '_'."""
    want = "it must be letters, digits and '_', not starting with a digit"
    text = scalar_text(value, want)
    if matches(WORD_PATTERN, text):
        return text
    raise BadValueError(Code.BAD_NAME, f"{shown(text)} is not such a name", want)


def parse_api(value: object) -> str:
    """The URL of a Kubernetes API server; plain HTTP on loopback only, for a token goes with every request."""
    want = "it must be https://host:port (http:// on loopback only), such as https://10.0.0.1:6443"
    text = scalar_text(value, want)
    if matches(API_PATTERN, text):
        return text.rstrip("/")
    advice = (
        f"Did you mean https://{text.removeprefix('http://')}?"
        if matches(API_PATTERN, f"https://{text.removeprefix('http://')}")
        else ""
    )
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is no such URL", want, advice)


def parse_address(value: object) -> str:
    """The address of a Ray cluster: `auto`, `local`, or host:port."""
    want = "it must be auto (the one on this machine), local (start one), or host:port"
    text = scalar_text(value, want)
    if matches(ADDRESS_PATTERN, text):
        return text
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not an address", want)


def parse_key_path(value: object) -> str:
    """A dotted path to a key of a job, such as optimizer.lr."""
    want = "it must be the path of a key below the job's spec, such as optimizer.lr or args.layers"
    text = scalar_text(value, want)
    if matches(KEY_PATH_PATTERN, text):
        return text
    raise BadValueError(Code.BAD_NAME, f"{shown(text)} is not a path of keys", want)


def parse_requirement(value: object) -> str:
    """A package of the index, with its versions: einops~=0.8.0. No options, addresses or files."""
    want = "it must be a package's name and its versions, such as einops==0.8.1 or 'tokenizers>=0.20,<1'"
    text = scalar_text(value, want)
    if matches(REQUIREMENT_PATTERN, text):
        return text
    raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a package", want)


def parse_file(value: object) -> str:
    """A path to a file or folder, relative to the YAML file that names it; kept as written."""
    text = parse_text(value, "it must be a path, relative to this file or absolute")
    if "\0" in text or "\n" in text:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is not a path", "it must be one line of printable text")
    return text


def require_name(text: str, what: str) -> str:
    """The name, if a job or study can have it: also NAME.2, its second run, and NAME~1, which was put aside.

    Raises: UserError, before a folder or an address is made of it.
    """
    if not matches(_KEPT_PATTERN, text):
        want = "it must be 1 to 63 lower-case letters, digits and '-', and may end in '.' and the number of a run"
        raise UserError(f"{shown(text)} cannot name a {what}; {want}")
    return text


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text fits; `$` alone would let a final line break through."""
    return re.fullmatch(pattern, text) is not None
