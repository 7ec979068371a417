"""Who is told over HTTP when a job, a study or an endpoint has ended: of one of them, or (in a Cluster) of all."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from orchestrator.spec.base import SpecModel, repeated
from orchestrator.spec.fields import Many, Name, OneOf, Typed
from orchestrator.spec.problems import BadValueError, Code, Finding
from orchestrator.spec.scalars import scalar_text, shown

Ending = Annotated[Literal["succeeded", "failed", "cancelled"], OneOf()]
ENDINGS: tuple[Ending, ...] = ("succeeded", "failed", "cancelled")
HOOK_PATTERN = r"^https?://[^\s/@#]+(/[^\s#]*)?$"
HOST_PATTERN = r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
MOST_HOOKS = 8
_MOST = 2000
_HOOK_WANT = "it must be an https address, or http on this machine, such as https://hooks.example.com/tideline"
_HOST_WANT = "it must be a host's name, such as hooks.example.com, or all below one: *.example.com"


def parse_hook(value: object) -> str:
    """An address that may be called: nothing that others could read on the way, and no password in it."""
    text = scalar_text(value, _HOOK_WANT)
    if "@" in re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]:
        step = "Keep it out of files; 'secret' names one that the server keeps"
        raise BadValueError(Code.CONFLICT, "holds a user or a password", _HOOK_WANT, step)
    if re.fullmatch(HOOK_PATTERN, text) is None or len(text) > _MOST or not text.isascii():
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is no address to call", _HOOK_WANT)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is no address to call", _HOOK_WANT) from None
    if parts.scheme == "http" and not is_loopback(host):
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} can be read on the way", _HOOK_WANT, "Write https")
    return text


def is_loopback(host: str) -> bool:
    """Whether a host's name can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_host(value: object) -> str:
    """A host's name, or `*.` and the end of many."""
    text = scalar_text(value, _HOST_WANT).lower()
    if re.fullmatch(HOST_PATTERN, text) is None:
        raise BadValueError(Code.WRONG_VALUE, f"{shown(text)} is no host", _HOST_WANT)
    return text


def _schema(pattern: str, description: str) -> dict[str, str]:
    return {"type": "string", "pattern": pattern, "description": description}


HookUrl = Annotated[str, Typed(parse_hook, lambda: _schema(HOOK_PATTERN, "An https address, or http on loopback."))]
HostName = Annotated[str, Typed(parse_host, lambda: _schema(HOST_PATTERN, "A host, or *.example.com."))]


class Hook(SpecModel):
    """An address that is called when a job has ended."""

    url: HookUrl
    """Where a POST is sent, again and again until it is answered with 2xx."""
    events: Many[Ending] = ENDINGS
    """The ends that it wants to hear of."""
    secret: Name | None = None
    """What messages are signed with: a file of that name in the server's folder secrets/TENANT; none = not signed."""

    def cross_check(self) -> Iterator[Finding]:
        if not self.events:
            yield Finding(("events",), Code.EMPTY, "names no end", "it must name one, or the key must go")
        yield from repeated(self.events, "events", key="")


def hook_findings(hooks: Sequence[Hook]) -> Iterator[Finding]:
    """What is wrong with the addresses under `notify`."""
    yield from repeated((one.url for one in hooks), "notify", key="url")
    if len(hooks) > MOST_HOOKS:
        want = f"it must be {MOST_HOOKS} at most"
        yield Finding(("notify",), Code.OUT_OF_BOUNDS, f"names {len(hooks)} addresses", want)


class Notify(SpecModel):
    """Who is told of every job's end, and whom jobs may have told."""

    hooks: Many[Hook] = ()
    """Addresses that are called for every job; their secrets are files in the server's folder secrets."""
    hosts: Many[HostName] = ()
    """The hosts that a job's own hooks may name; none = any."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated((one.url for one in self.hooks), "hooks", key="url")
        yield from repeated(self.hosts, "hosts", key="")
