"""One attempt of a trial on one node: starts its ranks, listens to them, carries reports up and answers down.

A thread of its own around one select loop. Free of Ray: the seat around it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.study.line import VARIABLE, TrialFacts
from jobs.train.config import StartRequest
from jobs.train.messages import Failed, Finished, LineBuffer, Message, Step, Stop, Stopped
from jobs.train.starters import Exit, RankHandle, RankStarter, StartError
from orchestrator.adapters.ray_tune.seat_messages import SeatItem, SeatOrder, SeatOver, SeatReport, SeatSteps

_SEND_EVERY_S = 0.5


class Attempt:
    """Runs in `start()`'s thread until no rank is left; says so last. Commands may come from any thread."""

    def __init__(
        self,
        order: SeatOrder,
        starter: RankStarter,
        folder: Path,
        devices: tuple[str, ...],
        say: Callable[[SeatItem], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._order, self._starter, self._devices, self._say = order, starter, devices, say
        self._clock = clock
        self._socket_path = folder / f"{order.trial}.{order.attempt}.sock"
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._handles: list[RankHandle] = []
        self._words: dict[int, Message] = {}
        self._points: list[tuple[int, float, float]] = []
        self._flushed_s = 0.0
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"trial-{order.trial}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def command(self, what: str) -> None:
        """ "go_on" and "leave" answer a report, "stop" ends in order, "kill" at once."""
        self._commands.put(what)
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_w, b"!")

    def _run(self) -> None:
        over = SeatOver(trial=self._order.trial, attempt=self._order.attempt, kind="internal", detail="no word")
        try:
            with contextlib.ExitStack() as stack:
                over = self._train(stack)
        except StartError as error:
            over = self._over("start", str(error))
        except Exception as error:
            over = self._over("internal", f"{type(error).__name__}: {error}")
        finally:
            os.close(self._wake_r)
            self._flush()
            self._say(over)

    def _train(self, stack: contextlib.ExitStack) -> SeatOver:
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(self._wake_r, selectors.EVENT_READ, self._obey)
        if 0 in self._order.ranks:
            listener = stack.enter_context(self._listen())
            selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener, selector, stack))
        for number, rank in enumerate(self._order.ranks):
            handle = self._start_rank(number, rank)
            stack.callback(handle.close)
            self._handles.append(handle)
            selector.register(handle, selectors.EVENT_READ)
        return self._watch(selector)

    def _watch(self, selector: selectors.BaseSelector) -> SeatOver:
        alive = list(self._handles)
        while alive:
            events = selector.select(_SEND_EVERY_S if self._points else None)
            for key, _ in events:
                if callable(key.data):
                    key.data()
            # All of them, whoever woke us: reading a rank's words may take in its end, which then wakes nobody.
            for handle in list(alive):
                ended = self._listen_to(handle)
                if ended is not None:
                    selector.unregister(handle)
                    alive.remove(handle)
                    failure = self._failure(handle.rank, ended)
                    if failure is not None:
                        return failure  # leaving kills the others of this node
            if self._clock() - self._flushed_s >= _SEND_EVERY_S:  # steps may come faster than that
                self._flush()
        return self._over()

    def _start_rank(self, number: int, rank: int) -> RankHandle:
        order = self._order
        facts = TrialFacts(
            socket_path=str(self._socket_path), reports=order.reports, evaluation_samples=order.evaluation_samples
        )
        device = {"CUDA_VISIBLE_DEVICES": self._devices[number % len(self._devices)]} if self._devices else {}
        request = StartRequest(
            job=order.job,
            rank=rank,
            world_size=order.world_size,
            local_rank=number,
            master_addr=order.master_addr,
            master_port=order.master_port,
            env={**order.environment, **device, VARIABLE: facts.to_text()},
            cwd=order.cwd,
        )
        log_dir = Path(order.log_dir)
        log_dir.mkdir(parents=True, exist_ok=True)
        path = log_dir / f"{order.trial}-rank-{rank}.log"
        output_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return self._starter.start(request, output_fd=output_fd)
        finally:
            os.close(output_fd)

    def _listen_to(self, handle: RankHandle) -> Exit | None:
        self._take_words(handle)
        ended = handle.wait(0)
        if ended is not None:
            self._take_words(handle)  # what it said last
        return ended

    def _take_words(self, handle: RankHandle) -> None:
        for message in handle.poll():
            match message:
                case Step() if handle.rank == 0:
                    self._points.append((message.step, message.loss, message.lr))
                case Failed() | Finished() | Stopped():
                    self._words[handle.rank] = message
                case _:
                    pass

    def _failure(self, rank: int, ended: Exit) -> SeatOver | None:
        word = self._words.get(rank)
        if isinstance(word, Finished | Stopped):
            return None
        if isinstance(word, Failed):
            return self._over(word.kind, word.detail)
        if ended.signal is not None:
            return self._over("killed", f"rank {rank} was killed by {signal.Signals(ended.signal).name}")
        how = "vanished" if ended.code is None else f"exited with code {ended.code} without a word"
        return self._over("killed", f"rank {rank} {how}")

    # -- commands and the line ----------------------------------------------------------------------------------

    def _obey(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)
        while not self._commands.empty():
            command = self._commands.get()
            match command:
                case "go_on" | "leave":
                    self._answer(command == "go_on")
                case "stop":
                    for handle in self._handles:
                        handle.send(Stop("the study"))
                    self._answer(False)
                case "kill":
                    for handle in self._handles:
                        handle.signal(signal.SIGKILL)

    def _answer(self, goes_on: bool) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.sendall(json.dumps({"go_on": goes_on}).encode() + b"\n")

    @contextlib.contextmanager
    def _listen(self) -> Iterator[socket.socket]:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket_path.unlink(missing_ok=True)
            listener.bind(str(self._socket_path))
            listener.listen(1)
            yield listener
        finally:
            listener.close()
            self._socket_path.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector, stack: contextlib.ExitStack) -> None:
        connection, _ = listener.accept()
        stack.callback(connection.close)
        self._connection = connection
        lines = LineBuffer()

        def read() -> None:
            try:
                data = connection.recv(1 << 16)
            except ConnectionResetError:  # it left without having read an answer: one that was told to stop on its way
                data = b""
            if not data:
                selector.unregister(connection)
                self._connection = None
                return
            for line in lines.feed(data):
                self._report(line)

        selector.register(connection, selectors.EVENT_READ, read)

    def _report(self, line: bytes) -> None:
        for handle in self._handles:
            if handle.rank == 0:
                self._take_words(handle)
        self._flush()  # steps before the report that they led to
        said = json.loads(line)
        self._say(
            SeatReport(
                trial=self._order.trial,
                attempt=self._order.attempt,
                step=int(said["step"]),
                metrics={str(name): float(value) for name, value in said["metrics"].items()},
            )
        )

    def _flush(self) -> None:
        self._flushed_s = self._clock()
        if self._points:
            points, self._points = tuple(self._points), []
            self._say(SeatSteps(trial=self._order.trial, attempt=self._order.attempt, points=points))

    def _over(self, kind: str = "", detail: str = "") -> SeatOver:
        return SeatOver(trial=self._order.trial, attempt=self._order.attempt, kind=kind, detail=detail)
