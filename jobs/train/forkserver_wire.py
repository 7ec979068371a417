"""What a stem and its clients say over the stem's socket: one JSON object a packet, file descriptors beside it.

`SOCK_SEQPACKET` keeps packets whole, so neither side ever waits for the rest of one.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

MAX_PACKET_BYTES = 16 * 1024
MAX_FDS = 8


class StemGoneError(ConnectionError):
    """The other end of the stem's socket is closed."""


def listen(path: str) -> socket.socket:
    """A listening socket at `path`, non-blocking; its folder decides who may connect."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(path)
    server.listen(256)
    server.setblocking(False)
    return server


def connect(path: str) -> socket.socket:
    """A blocking connection to the stem at `path`.

    Raises: StemGoneError if nobody listens there.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.connect(path)
    except OSError as error:
        client.close()
        raise StemGoneError(f"no fork server at {path}: {error.strerror}") from None
    return client


def send(sock: socket.socket, packet: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one packet; raises StemGoneError if the other end is closed."""
    data = json.dumps(packet).encode()
    assert len(data) <= MAX_PACKET_BYTES, "packets are small; a rank's job travels through its own pipe"
    try:
        socket.send_fds(sock, [data], list(fds))
    except OSError as error:
        raise StemGoneError(str(error)) from None


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One packet with its descriptors (now ours, not inheritable).

    Raises: StemGoneError at the end; ValueError for anything that is not one JSON object (descriptors are closed);
    BlockingIOError on a non-blocking socket without a packet.
    """
    try:
        data, fds, _, _ = socket.recv_fds(sock, MAX_PACKET_BYTES, MAX_FDS)
    except ConnectionError as error:
        raise StemGoneError(str(error)) from None
    if not data:
        raise StemGoneError("closed")
    try:
        packet = json.loads(data)
        if not isinstance(packet, dict):
            raise ValueError("a packet must be a JSON object")
    except ValueError:
        for fd in fds:
            os.close(fd)
        raise
    for fd in fds:
        os.set_inheritable(fd, False)
    return packet, fds


def peer_uid(sock: socket.socket) -> int:
    """User id of the process at the other end."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
