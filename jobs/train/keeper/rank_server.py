"""The unix socket on which a keeper hears its node's ranks. Who may open the keeper's folder may ask."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import structlog

from jobs.train.keeper import rank_protocol
from jobs.train.keeper.rank_protocol import SOCKET_NAME
from jobs.train.keeper.rank_service import RankService
from orchestrator.spec.errors import ExitCode, UserError

_log = structlog.get_logger(__name__)
_MAX_PATH_BYTES = 107  # sun_path, its final zero left out


class RankServer:
    """One thread per connected rank; a rank that hangs up, or dies, loses what it had not sealed."""

    def __init__(self, service: RankService, folder: Path) -> None:
        """Raises: UserError if the folder's path is too long for a socket."""
        self.path = folder / SOCKET_NAME
        if len(str(self.path).encode()) > _MAX_PATH_BYTES:
            raise UserError(
                f"path is longer than a unix socket's may be ({_MAX_PATH_BYTES} bytes)",
                code=ExitCode.INVALID,
                where=str(self.path),
                next_step="Name a shorter folder for the keeper.",
            )
        self._service = service
        self.path.unlink(missing_ok=True)  # of a keeper that was killed; the folder's lock is ours
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="keeper-ranks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop answering; ranks find out at their next question."""
        with self._lock:
            self._closed = True
            sockets = [self._listener, *self._open]
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                continue
            with self._lock:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name="keeper-rank", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        owner = object()
        try:
            with sock, sock.makefile("rb") as lines:
                while line := lines.readline(rank_protocol.MAX_LINE_BYTES):
                    answer = self._service.answer(rank_protocol.decode(line), owner)
                    sock.sendall(rank_protocol.encode(answer))
        except (OSError, ValueError) as error:
            _log.info("connection of a rank ended", error=str(error))
        finally:
            self._service.gone(owner)
            with self._lock:
                self._open.discard(sock)
