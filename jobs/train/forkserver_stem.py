"""The stem: a process that has imported everything, holds nothing, and forks ranks on request.

It never starts a thread, touches a device or joins a cluster: a child of such a process could not use any of them. It
waits in one select loop, so it needs no locks. Knows nothing of jobs: a rank reads its own from its pipe.

Who lives how long: a connection that closes takes its rank with it (the supervisor is gone); the lifeline that closes
(the launcher is gone) ends the stem as soon as no rank is left. Ranks survive the stem itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable

from jobs.train import forkserver_wire as wire
from jobs.train.preload import num_threads, prepare_process, require_forkable, warm_up
from jobs.train.rehearsal import rehearse

_NUM_FDS = 4  # stdout, stderr, messages, control


class Stem:
    """The select loop. `become_rank(messages_fd, control_fd)` runs in the child and returns its exit code."""

    def __init__(self, listener: socket.socket, lifeline_fd: int, become_rank: Callable[[int, int], int]) -> None:
        self._become_rank = become_rank
        self._listener = listener
        self._lifeline_fd = lifeline_fd
        self._clients: set[socket.socket] = set()
        self._client_of: dict[int, socket.socket] = {}  # by pid of the rank it supervises
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._closing = False

    def run(self) -> None:
        """Serve until the launcher is gone and no rank is left."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only its byte on the wake-up socket matters
        signal.set_wakeup_fd(self._wake_w.fileno())
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._lifeline_fd, selectors.EVENT_READ, self._launcher_gone)
        self._selector.register(self._wake_r, selectors.EVENT_READ, self._reap)
        while not (self._closing and not self._client_of):
            for key, _ in self._selector.select():
                if key.fileobj in self._clients:
                    self._serve(key.fileobj)
                else:
                    key.data()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if wire.peer_uid(client) != os.getuid():
            client.close()
            return
        client.setblocking(False)
        self._clients.add(client)
        self._selector.register(client, selectors.EVENT_READ)

    def _launcher_gone(self) -> None:
        self._closing = True
        self._selector.unregister(self._lifeline_fd)
        self._selector.unregister(self._listener)
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            packet, fds = wire.receive(client)
        except BlockingIOError:
            return
        except (wire.StemGoneError, ValueError):
            self._drop(client)
            return
        try:
            self._answer(client, packet.get("op"), fds)
        except wire.StemGoneError:
            self._drop(client)
        finally:
            for fd in fds:
                os.close(fd)

    def _answer(self, client: socket.socket, op: object, fds: list[int]) -> None:
        if op == "fork" and len(fds) == _NUM_FDS and client not in self._client_of.values():
            self._fork(client, fds)
        elif op == "status":
            status = {"pid": os.getpid(), "ranks": sorted(self._client_of), "threads": num_threads()}
            wire.send(client, status)
        else:
            wire.send(client, {"error": f"unknown request {op!r} with {len(fds)} descriptors"})

    def _fork(self, client: socket.socket, fds: list[int]) -> None:
        if num_threads() != 1:
            wire.send(client, {"error": f"the fork server has {num_threads()} threads; restart it"})
            return
        pid = os.fork()
        if pid == 0:
            self._child(fds)
        self._client_of[pid] = client
        # A descriptor of the process, taken before it can be reaped: a pid alone may be somebody else's later.
        pidfd = os.pidfd_open(pid)
        try:
            wire.send(client, {"pid": pid}, (pidfd,))
        finally:
            os.close(pidfd)

    def _child(self, fds: list[int]) -> None:
        """Never returns. Everything of the stem is closed first: a rank that held it would keep others alive."""
        code = 1
        try:
            # A group, for signals to the terminal's are for the supervisor, and the rank's own children share this. No
            # session: Linux shares cores out between sessions first (autogroup), and ranks with sessions of their own
            # would leave a worker that starts on their node, or answers there, as little as one of them has.
            os.setpgrp()
            self._let_go()
            stdout, stderr, messages, control = fds
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            code = self._become_rank(messages, control)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _let_go(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        os.close(self._lifeline_fd)
        for held in (self._listener, self._wake_r, self._wake_w, *self._clients):
            held.close()

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_r.recv(4096):
                pass
        while self._client_of:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            client = self._client_of.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if client in self._clients:
                with contextlib.suppress(wire.StemGoneError):
                    wire.send(client, {"code": code} if code >= 0 else {"signal": -code})

    def _drop(self, client: socket.socket) -> None:
        """The supervisor is gone: so is its rank, with everything the rank started."""
        self._selector.unregister(client)
        self._clients.discard(client)
        client.close()
        for pid, owner in self._client_of.items():
            if owner is client:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still ours
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)


def main(become_rank: Callable[[int, int], int] | None = None) -> None:
    """Entry point of the launcher; says on `--ready-fd` what became of it, one JSON line. `become_rank` replaces a
    job's rank as what a child runs.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--lifeline-fd", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--preload", action="append", default=[])
    args = parser.parse_args()
    started_s = time.monotonic()
    listener = None
    try:
        accelerator = prepare_process()
        warm_up(tuple(args.preload))
        require_forkable()
        # A rehearsal that fails costs the first rank time, nothing else; CUDA ranks compute elsewhere.
        rehearsed = accelerator == "cpu" and rehearse()
        listener = wire.listen(args.socket)
        answer: dict[str, object] = {"accelerator": accelerator, "rehearsed": rehearsed}
        answer["seconds"] = time.monotonic() - started_s
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    with os.fdopen(args.ready_fd, "w") as ready:
        ready.write(json.dumps(answer) + "\n")
    if listener is None:
        sys.exit(1)
    from jobs.train.rank import main as become_a_jobs_rank

    Stem(listener, args.lifeline_fd, become_rank or become_a_jobs_rank).run()


if __name__ == "__main__":
    main()
