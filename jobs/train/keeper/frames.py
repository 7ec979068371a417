"""Frames on a stream socket: a length, a JSON head, a payload; and the handshake that proves both ends know the token.

The token never crosses the wire: each side answers the other's random challenge. What follows is neither encrypted nor
signed; the network between nodes is trusted with the data, as it is for the gradients themselves.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import struct
from typing import Any

_LENGTHS = struct.Struct(">IQ")  # head, payload
MAX_HEAD_BYTES = 64 * 2**20
_CHALLENGE_BYTES = 32
_MAGIC = b"tide-keeper/1\n"


class FrameError(ConnectionError):
    """The other end does not speak this protocol, or hung up in the middle of a frame."""


def send_frame(sock: socket.socket, head: dict[str, Any], payload: memoryview | bytes = b"") -> None:
    """One frame; the payload is sent from where it lies. Raises: OSError."""
    text = json.dumps(head, separators=(",", ":")).encode()
    sock.sendall(_LENGTHS.pack(len(text), len(payload)) + text)
    if len(payload):
        sock.sendall(payload)


def receive_head(sock: socket.socket) -> tuple[dict[str, Any], int] | None:
    """The next frame's head and the size of the payload to `receive_into`; None if the other end closed in between.

    Raises: FrameError, OSError.
    """
    first = sock.recv(1)
    if not first:
        return None
    head_bytes, payload_bytes = _LENGTHS.unpack(first + bytes(receive(sock, _LENGTHS.size - 1)))
    if head_bytes > MAX_HEAD_BYTES:
        raise FrameError(f"head of {head_bytes} bytes")
    try:
        head = json.loads(bytes(receive(sock, head_bytes)))
    except ValueError as error:
        raise FrameError("head is no JSON") from error
    if not isinstance(head, dict):
        raise FrameError("head is no object")
    return head, payload_bytes


def receive_into(sock: socket.socket, target: memoryview) -> None:
    """Fill `target`. Raises: FrameError if the stream ends before, OSError."""
    done = 0
    while done < len(target):
        got = sock.recv_into(target[done:])
        if not got:
            raise FrameError(f"stream ended after {done} of {len(target)} bytes")
        done += got


def receive(sock: socket.socket, nbytes: int) -> memoryview:
    """The next `nbytes`. Raises: FrameError, OSError."""
    buffer = memoryview(bytearray(nbytes))
    receive_into(sock, buffer)
    return buffer


def greet_as_server(sock: socket.socket, token: bytes) -> None:
    """Let the client in if it knows the token, and prove that we do. Raises: FrameError, OSError."""
    ours = secrets.token_bytes(_CHALLENGE_BYTES)
    sock.sendall(_MAGIC + ours)
    theirs = bytes(receive(sock, _CHALLENGE_BYTES))
    if not hmac.compare_digest(receive(sock, 32), _proof(token, b"client", ours, theirs)):
        raise FrameError("the client does not know this keeper's token")
    sock.sendall(_proof(token, b"server", theirs, ours))


def greet_as_client(sock: socket.socket, token: bytes) -> None:
    """The other side of `greet_as_server`. Raises: FrameError, OSError."""
    if bytes(receive(sock, len(_MAGIC))) != _MAGIC:
        raise FrameError("no keeper answers at this address")
    theirs = bytes(receive(sock, _CHALLENGE_BYTES))
    ours = secrets.token_bytes(_CHALLENGE_BYTES)
    sock.sendall(ours + _proof(token, b"client", theirs, ours))
    try:
        proof = receive(sock, 32)
    except (FrameError, ConnectionResetError):
        raise FrameError("the keeper does not accept our token") from None
    if not hmac.compare_digest(proof, _proof(token, b"server", ours, theirs)):
        raise FrameError("the keeper does not know our token")


def _proof(token: bytes, side: bytes, challenge: bytes, other: bytes) -> bytes:
    return hmac.digest(token, side + challenge + other, "sha256")
