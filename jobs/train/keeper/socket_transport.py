"""Keepers over TCP or unix stream sockets: a server that answers, a transport that asks.

Addresses are `tcp:HOST:PORT` and `unix:PATH`. Payloads go from one node's mapped memory to the other's, block by block.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import structlog

from jobs.train.keeper import frames
from jobs.train.keeper.frames import FrameError
from jobs.train.keeper.transport import Fields, PeerGoneError, PeerRefusedError, PeerService, Reply

_BUFFER_BYTES = 4 * 2**20
MALFORMED = "malformed"
_log = structlog.get_logger(__name__)


class PeerServer:
    """Answers keepers that know the token; one thread a connection.

    `timeout_s` bounds every read and write inside a frame and the handshake; a silent idle connection may stay.
    """

    def __init__(self, service: PeerService, token: bytes, address: str, *, timeout_s: float) -> None:
        """Bind; port 0 takes any free one. Raises: OSError, ValueError for an address of no known form."""
        self._service = service
        self._token = token
        self._timeout_s = timeout_s
        self._listener = _listen(address)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="keeper-peers", daemon=True)

    @property
    def address(self) -> str:
        """Where it can be reached, the port filled in."""
        name = self._listener.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop answering; open connections break."""
        with self._lock:
            self._closed = True
            sockets = [self._listener, *self._open]
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                continue
            with self._lock:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name="keeper-peer", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                _tune(sock)
                sock.settimeout(self._timeout_s)
                frames.greet_as_server(sock, self._token)
                while self._answer(sock):
                    pass
        except OSError as error:
            if not self._closed:
                _log.info("connection of a peer ended", error=str(error))
        finally:
            with self._lock:
                self._open.discard(sock)

    def _answer(self, sock: socket.socket) -> bool:
        """Answer one question; False when the peer has closed."""
        sock.settimeout(None)
        frame = frames.receive_head(sock)
        if frame is None:
            return False
        sock.settimeout(self._timeout_s)
        head, nbytes = frame
        try:
            op, fields = str(head["op"]), head["fields"]
        except KeyError as error:
            raise FrameError(f"question without {error}") from error
        try:
            payload = self._receive_payload(sock, op, fields, nbytes)
            reply = self._service.handle(op, fields, payload)
        except PeerRefusedError as refusal:
            frames.send_frame(sock, {"error": refusal.code, "detail": refusal.detail})
        except (KeyError, TypeError, ValueError) as error:
            # The payload may be unread, so this connection is of no use any more.
            frames.send_frame(sock, {"error": MALFORMED, "detail": f"{op}: {error}"})
            raise FrameError(f"malformed question {op!r}: {error}") from error
        else:
            frames.send_frame(sock, {"fields": reply.fields}, reply.payload)
        return True

    def _receive_payload(self, sock: socket.socket, op: str, fields: Fields, nbytes: int) -> memoryview:
        if not nbytes:
            return memoryview(b"")
        try:
            target = self._service.sink(op, fields, nbytes)
        except PeerRefusedError:
            _skip(sock, nbytes)
            raise
        frames.receive_into(sock, target)
        return target


class SocketTransport:
    """Asks keepers by node name; keeps one idle connection per node and concurrent caller. Thread-safe."""

    def __init__(self, token: bytes, addresses: Mapping[str, str], *, timeout_s: float) -> None:
        self._token = token
        self._addresses = dict(addresses)
        self._timeout_s = timeout_s
        self._idle: dict[str, list[socket.socket]] = {}
        self._lock = threading.Lock()

    def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Learn who is where now; connections to addresses that changed are closed."""
        with self._lock:
            moved = [node for node in self._idle if addresses.get(node) != self._addresses.get(node)]
            stale = [sock for node in moved for sock in self._idle.pop(node)]
            self._addresses = dict(addresses)
        for sock in stale:
            sock.close()

    def call(self, node: str, op: str, fields: Fields, payload: memoryview = memoryview(b"")) -> Reply:
        """Ask; an idle connection that the peer has closed meanwhile (it restarted) is replaced once."""
        sock = self._take_idle(node)
        if sock is not None:
            with contextlib.suppress(OSError):
                return self._ask(node, sock, op, fields, payload)
        try:
            return self._ask(node, self._connect(node), op, fields, payload)
        except OSError as error:
            raise PeerGoneError(node, f"{error or type(error).__name__}") from error

    def close(self) -> None:
        """Close idle connections; calls under way finish."""
        with self._lock:
            sockets = [sock for pool in self._idle.values() for sock in pool]
            self._idle.clear()
        for sock in sockets:
            sock.close()

    def _ask(self, node: str, sock: socket.socket, op: str, fields: Fields, payload: memoryview) -> Reply:
        try:
            frames.send_frame(sock, {"op": op, "fields": fields}, payload)
            frame = frames.receive_head(sock)
            if frame is None:
                raise FrameError("closed the connection without an answer")
            head, nbytes = frame
            data = frames.receive(sock, nbytes)
        except BaseException:
            sock.close()
            raise
        with self._lock:
            self._idle.setdefault(node, []).append(sock)
        if "error" in head:
            raise PeerRefusedError(str(head["error"]), str(head.get("detail", "")))
        return Reply(head["fields"], data)

    def _take_idle(self, node: str) -> socket.socket | None:
        with self._lock:
            pool = self._idle.get(node)
            return pool.pop() if pool else None

    def _connect(self, node: str) -> socket.socket:
        with self._lock:
            address = self._addresses.get(node)
        if address is None:
            raise PeerGoneError(node, "has no known address")
        sock = _dial(address, self._timeout_s)
        try:
            frames.greet_as_client(sock, self._token)
        except BaseException:
            sock.close()
            raise
        return sock


def _listen(address: str) -> socket.socket:
    kind, _, where = address.partition(":")
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        Path(where).unlink(missing_ok=True)
        listener.bind(where)
        Path(where).chmod(0o600)
    elif kind == "tcp":
        host, _, port = where.rpartition(":")
        listener = socket.create_server((host, int(port)))
    else:
        raise ValueError(f"address {address!r}; write tcp:HOST:PORT or unix:PATH")
    listener.listen(128)
    return listener


def _dial(address: str, timeout_s: float) -> socket.socket:
    kind, _, where = address.partition(":")
    host, _, port = where.rpartition(":")
    if kind != "unix":
        sock = socket.create_connection((host, int(port)), timeout=timeout_s)
        _tune(sock)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _tune(sock)
        sock.settimeout(timeout_s)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    """Blocks are megabytes and answers are bytes: large buffers, no waiting to fill a packet."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _skip(sock: socket.socket, nbytes: int) -> None:
    """Read what nobody wants, so that the refusal can be answered on the same connection."""
    waste = memoryview(bytearray(min(nbytes, 2**16)))
    while nbytes:
        got = sock.recv_into(waste[: min(nbytes, len(waste))])
        if not got:
            raise FrameError("stream ended inside a payload")
        nbytes -= got
