"""Sockets to listen on, each with what it asks of who comes in. Raises UserError where an address cannot be had."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from orchestrator.api.guard import Entrance
from orchestrator.spec.errors import ExitCode, UserError

_BACKLOG = 1024
# The kernel's bound on a unix socket's path, with its closing zero.
_MAX_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An open socket. `address` is what people and clients call it."""

    socket: socket.socket
    entrance: Entrance
    address: str
    certificate: Path | None = None
    private_key: Path | None = None


def unix_listener(path: Path) -> Listener:
    """A socket that its owner alone may open; one that nobody listens on any more is replaced."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        problem = f"the socket's path has {len(os.fsencode(path))} bytes; the system allows {_MAX_SOCKET_PATH}"
        raise UserError(problem, where=str(path), next_step="Set TIDE_HOME to a shorter path")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # the lock of the state folder tells that nobody is there
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return Listener(socket=listener, entrance=Entrance.SOCKET, address=f"unix://{path}")


def tcp_listener(
    listen: str, *, certificate: Path | None, private_key: Path | None, plain: bool, any_key: bool
) -> Listener:
    """HOST:PORT. Beyond this machine only with keys, and with TLS unless `plain` says that somebody else does it."""
    host, port = _split(listen)
    loopback = _is_loopback(host)
    if (certificate is None) != (private_key is None):
        raise UserError("TLS needs both --tls-cert and --tls-key", code=ExitCode.USAGE)
    if certificate is not None and private_key is not None:
        _check_certificate(certificate, private_key)
    if not loopback and not any_key:
        problem = f"{listen} is reachable from other machines, and no API key was issued yet"
        step = "Start it without --listen, make one with 'tide keys create --tenant NAME --role admin', and start again"
        raise UserError(problem, code=ExitCode.FORBIDDEN, next_step=step)
    if not loopback and certificate is None and not plain:
        problem = f"{listen} is reachable from other machines, and keys would be sent in plain text"
        step = "Give --tls-cert and --tls-key, or --plain-http where a proxy in front does TLS"
        raise UserError(problem, code=ExitCode.FORBIDDEN, next_step=step)
    bound = _bind(host, port)
    scheme = "http" if certificate is None else "https"
    shown = f"[{host}]" if ":" in host else host
    return Listener(
        socket=bound,
        entrance=Entrance.LOOPBACK if loopback else Entrance.NETWORK,
        address=f"{scheme}://{shown}:{bound.getsockname()[1]}",
        certificate=certificate,
        private_key=private_key,
    )


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        code = ExitCode.CONFLICT if error.errno == errno.EADDRINUSE else ExitCode.INVALID
        problem = f"cannot listen ({(error.strerror or str(error)).lower()})"
        raise UserError(problem, code=code, where=f"{host}:{port}", next_step="Name another address") from None
    return bound


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) < 65536:
        problem = f"--listen {listen!r} is no address; write HOST:PORT, such as 127.0.0.1:8642"
        raise UserError(problem, code=ExitCode.USAGE)
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_certificate(certificate: Path, private_key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        problem = f"the certificate and its key cannot be used: {error.strerror or error}"
        raise UserError(problem, where=str(certificate), next_step="Give PEM files that belong together") from None
