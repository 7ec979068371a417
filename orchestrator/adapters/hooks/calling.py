"""One POST to somebody else's address, within a time, to an address that may be called.

A name is looked up once, and what it stands for is checked and then called: a name that means something else a moment
later changes nothing. Redirects are answers like any other, proxies of the environment are not asked, and of an answer
nothing but its status is read.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from orchestrator.spec.notify import is_loopback

TIMEOUT_S = 15.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call: the status, or in words why there is none. Never what the answer held."""

    status: int | None
    said: str

    @property
    def is_delivered(self) -> bool:
        """Whether the message was taken."""
        return self.status is not None and 200 <= self.status < 300


_quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("quiet", default=False)


def _may_be_logged(record: logging.LogRecord) -> bool:
    """httpx logs whole addresses; some of those called from here are secrets of their owners."""
    return not _quiet.get()


logging.getLogger("httpx").addFilter(_may_be_logged)


class _RefusedError(Exception):
    """This address is not called."""


async def call(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    hosts: Sequence[str] = (),
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """POST once. `hosts`: the only names that may be called; none = any. `tls`: whom to trust; None = the system's."""
    _quiet.set(True)  # in this task
    try:
        async with asyncio.timeout(timeout_s):
            return await _call(url, body, headers, hosts, tls or _system_tls(), timeout_s)
    except TimeoutError:
        return Answer(status=None, said=f"no answer within {timeout_s:g} s")
    except _RefusedError as error:
        return Answer(status=None, said=str(error))
    except (httpx.HTTPError, OSError, ssl.SSLError, UnicodeError) as error:
        # httpx names no address in its errors; the text of others may hold one, their class does not.
        return Answer(status=None, said=f"not reached: {_reason(error)}")


async def _call(
    url: str, body: bytes, headers: Mapping[str, str], hosts: Sequence[str], tls: ssl.SSLContext, timeout_s: float
) -> Answer:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not may_call(host, hosts):
        raise _RefusedError(f"host {host!r} is none that the Cluster lets jobs name")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = await _look_up(host, port, plain=parts.scheme == "http")
    there = f"[{address}]" if address.version == 6 else str(address)
    target = httpx.URL(url).copy_with(host=there)
    extra = {"host": parts.netloc, "user-agent": "tideline"}
    async with httpx.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=timeout_s) as client:
        named = {"sni_hostname": host} if parts.scheme == "https" else {}
        request = client.build_request("POST", target, content=body, headers={**headers, **extra}, extensions=named)
        answer = await client.send(request, stream=True)
        await answer.aclose()
        return Answer(status=answer.status_code, said=f"answered {answer.status_code}")


@functools.cache
def _system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def may_call(host: str, hosts: Sequence[str]) -> bool:
    """Whether a Cluster's list of hosts, if it has one, names this one."""
    name = host.lower().rstrip(".")
    return not hosts or any(name.endswith(one[1:]) if one.startswith("*.") else name == one for one in hosts)


async def _look_up(host: str, port: int, *, plain: bool) -> Address:
    """What a name stands for, if all of it may be called."""
    loop = asyncio.get_running_loop()
    found = [ipaddress.ip_address(one[4][0]) for one in await loop.getaddrinfo(host, port, type=1)]
    for address in found:
        refuse(address, host, plain=plain)
    return found[0]


def refuse(address: Address, host: str, *, plain: bool) -> None:
    """Raises: _RefusedError for an address that stands for no server of anybody's: metadata services, whole networks,
    nothing; and without TLS, for any but this machine's."""
    real = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped else address
    odd = real.is_link_local or real.is_multicast or real.is_unspecified or (real.is_reserved and not real.is_loopback)
    if odd:
        raise _RefusedError(f"host {host!r} stands for {real}, which is not called")
    if plain and not real.is_loopback:
        raise _RefusedError(f"host {host!r} is not this machine, and the address is not https")
    if is_loopback(host) and not real.is_loopback:
        raise _RefusedError(f"host {host!r} stands for {real} here")


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    match cause:
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused: {cause.verify_message}"
        case socket.gaierror():
            return f"its name is not known: {cause.strerror}"
        case OSError() if cause.errno:
            return os.strerror(cause.errno)
        case _:
            return type(cause).__name__
