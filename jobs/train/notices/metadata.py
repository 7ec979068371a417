"""One HTTP client for metadata servers: only to the configured address, small answers, no redirects, no proxies."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from jobs.train.notices.values import SourceAbsentError, SourceError

_MAX_BODY_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """The body as text. Raises: SourceError if it is none."""
        try:
            return self.body.decode().strip()
        except UnicodeDecodeError:
            raise SourceError(f"answer is no text: {self.body[:40]!r}") from None


class MetadataClient:
    """Asks `base_url` and nobody else; `close` from another thread ends a question under way.

    http.client and not a full client on purpose: metadata servers must not be asked through a proxy of the environment,
    and a redirect from one is an attack.
    """

    def __init__(self, base_url: str, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        """Raises: ValueError unless the URL is `http://HOST[:PORT][/PATH]`."""
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"metadata server {base_url!r}; write http://HOST[:PORT][/PATH]")
        self._host = parts.hostname
        self._port = parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._closed = False

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        wait_s: float = 0.0,
    ) -> Answer:
        """One question; `wait_s` is added to the read timeout, for servers that hold the answer until there is news.

        Raises: SourceAbsentError if nobody answers at that address, SourceError for everything else that is no answer.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._connect_timeout_s)
        try:
            self._connect(connection)
            assert connection.sock is not None
            connection.sock.settimeout(self._read_timeout_s + wait_s)
            connection.request(method, self._prefix + path, body=body, headers=dict(headers))
            response = connection.getresponse()
            data = response.read(_MAX_BODY_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"{self._host}: {type(error).__name__}: {error}") from error
        finally:
            with self._lock:
                self._sock = None
            connection.close()
        if len(data) > _MAX_BODY_BYTES:
            raise SourceError(f"answer to {path} is longer than {_MAX_BODY_BYTES} bytes")
        if 300 <= response.status < 400:
            raise SourceError(f"{path} leads elsewhere (HTTP {response.status}); not followed")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)

    def close(self) -> None:
        """End a question under way, and all later ones."""
        with self._lock:
            self._closed = True
            sock = self._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise SourceAbsentError(f"nobody answers at {self._host}:{self._port} ({error})") from error
        with self._lock:
            self._sock = connection.sock
            if self._closed:
                raise SourceError("closed")


def expect(answer: Answer, path: str) -> Answer:
    """The answer if it is a 200. Raises: SourceError otherwise."""
    if answer.status != 200:
        raise SourceError(f"{path}: HTTP {answer.status}: {answer.body[:80]!r}")
    return answer
