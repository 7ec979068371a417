"""The line between a trial's rank 0 and its seat, and a seat's attempt over ranks that are scripts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.study.line import Line, TrialFacts
from jobs.train import messages
from jobs.train.config import StartRequest
from jobs.train.messages import Control, Failed, Message, Step, Stopped
from jobs.train.starters import Exit, StartError
from orchestrator.adapters.ray_tune.attempt import Attempt
from orchestrator.adapters.ray_tune.seat_messages import SeatItem, SeatOrder, SeatOver, SeatReport, SeatSteps
from tests.train.ranks import make_job


def test_facts_survive_the_environment() -> None:
    facts = TrialFacts(socket_path="/tmp/x", reports=(10, 30), evaluation_samples=64)
    assert TrialFacts.from_text(facts.to_text()) == facts


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.mark.parametrize(
    ("answer", "goes_on"), [(b'{"go_on": true}\n', True), (b'{"go_on": false}\n', False), (b"", False)]
)
def test_a_rank_goes_on_only_when_it_is_told_so(answer: bytes, goes_on: bool, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "l"))
        listener.listen(1)
        line = Line(str(folder / "l"))
        connection, _ = listener.accept()
        heard: list[bytes] = []

        def serve() -> None:
            heard.append(connection.recv(4096))
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert line.report(7, {"loss": 1.5}) is goes_on
        thread.join()
        line.close()
    assert json.loads(heard[0]) == {"step": 7, "metrics": {"loss": 1.5}}


class ScriptedRank:
    """A rank whose words and end a test decides; speaks to its seat as a real one does."""

    def __init__(self, request: StartRequest) -> None:
        self.request, self.rank, self.pid = request, request.rank, 0
        self.facts = TrialFacts.from_text(request.env["TIDE_TRIAL"])
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._words: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._exit: Exit | None = None
        self.controls: list[Control] = []

    def say(self, *words: Message) -> None:
        for word in words:
            self._words.put(word)
        os.write(self._write_fd, b"!")

    def end(self, ended: Exit) -> None:
        self._exit = ended
        os.write(self._write_fd, b"!")

    def fileno(self) -> int:
        return self._read_fd

    def poll(self) -> list[Message]:
        """As a real handle: what it reads here wakes nobody again, the rank's end included."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)
        said = []
        while not self._words.empty():
            said.append(self._words.get())
        return said

    def messages(self) -> Iterator[Message]:
        raise NotImplementedError

    def send(self, control: Control) -> None:
        self.controls.append(control)

    def signal(self, signum: int) -> None:
        self.end(Exit(None, signum))

    def wait(self, timeout_s: float | None = None) -> Exit | None:
        return self._exit

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


class ScriptedStarter:
    def __init__(self, *, refuses: bool = False) -> None:
        self.ranks: queue.SimpleQueue[ScriptedRank] = queue.SimpleQueue()
        self._refuses = refuses

    def start(self, request: StartRequest, *, output_fd: int | None = None) -> ScriptedRank:
        if self._refuses:
            raise StartError("no stem")
        rank = ScriptedRank(request)
        self.ranks.put(rank)
        return rank


class Scene:
    """One attempt on one node and what it says."""

    def __init__(self, folder: Path, *, ranks: tuple[int, ...] = (0,), refuses: bool = False, **more: Any) -> None:
        self.starter, self.said = ScriptedStarter(refuses=refuses), queue.SimpleQueue[SeatItem]()
        order = SeatOrder(
            trial="t0001",
            attempt=1,
            job=make_job(folder),
            ranks=ranks,
            world_size=len(ranks),
            master_addr="127.0.0.1",
            master_port=1,
            reports=(10, 30),
            evaluation_samples=8,
            cwd="",
            environment={"COLOUR": "blue"},
            log_dir=str(folder / "logs"),
        )
        self.attempt = Attempt(order, self.starter, folder, (), self.said.put, **more)
        self.attempt.start()

    def next(self) -> SeatItem:
        return self.said.get(timeout=10)


def _step(number: int) -> Step:
    return Step(step=number, loss=2.0, lr=0.1, grad_norm=1.0, tokens=1, step_s=0.1, hash_hi=0, hash_lo=0, mfu=0.0)


def test_a_report_goes_up_after_its_steps_and_the_answer_comes_down(folder: Path) -> None:
    scene = Scene(folder)
    rank = scene.starter.ranks.get(timeout=10)
    assert rank.request.env["COLOUR"] == "blue"
    answers: list[bool] = []
    rank.say(_step(9), _step(10))
    line = Line(rank.facts.socket_path)
    asking = threading.Thread(target=lambda: answers.append(line.report(10, {"loss": 2.0})))
    asking.start()
    steps, report = [], scene.next()
    while isinstance(report, SeatSteps):
        steps += [step for step, _, _ in report.points]
        report = scene.next()
    assert steps == [9, 10]
    assert report == SeatReport(trial="t0001", attempt=1, step=10, metrics={"loss": 2.0})
    scene.attempt.command("go_on")
    asking.join()
    assert answers == [True]
    line.close()
    rank.say(Stopped(30, "told to leave"))
    rank.end(Exit(0, None))
    assert scene.next() == SeatOver(trial="t0001", attempt=1)


def test_steps_that_come_faster_than_they_are_sent_are_told_before_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.adapters.ray_tune.attempt._SEND_EVERY_S", 60.0)
    ticks = itertools.count(1000, 61)
    scene = Scene(folder, clock=lambda: float(next(ticks)))
    rank = scene.starter.ranks.get(timeout=10)
    for number in (1, 2, 3):
        rank.say(_step(number))
        item = scene.next()
        assert isinstance(item, SeatSteps)
        assert [step for step, _, _ in item.points] == [number]
    scene.attempt.command("kill")


def test_stop_is_passed_on_in_order_and_kill_at_once(folder: Path) -> None:
    scene = Scene(folder, ranks=(0, 1))
    ranks = [scene.starter.ranks.get(timeout=10) for _ in range(2)]
    scene.attempt.command("stop")
    scene.attempt.command("kill")
    over = scene.next()
    assert isinstance(over, SeatOver)
    assert over.kind == "killed"
    assert signal.SIGKILL.name in over.detail
    assert all(isinstance(rank.controls[0], messages.Stop) for rank in ranks)


def test_a_rank_that_is_stopped_on_its_way_leaves_an_answer_unread_and_has_not_failed(folder: Path) -> None:
    scene = Scene(folder)
    rank = scene.starter.ranks.get(timeout=10)
    line = Line(rank.facts.socket_path)
    rank.say(_step(9))
    while not isinstance(scene.next(), SeatSteps):
        pass
    scene.attempt.command("stop")
    select.select([line.fileno()], [], [], 10)  # the answer to a report that is never made
    line.close()
    for _ in range(2):  # each step is heard after what came before it was: by the second, the line's end was taken in
        rank.say(_step(10))
        assert isinstance(scene.next(), SeatSteps)
    rank.say(Stopped(10, "the study"))
    rank.end(Exit(0, None))
    assert scene.next() == SeatOver(trial="t0001", attempt=1)


def test_a_failure_says_its_kind(folder: Path) -> None:
    scene = Scene(folder)
    rank = scene.starter.ranks.get(timeout=10)
    rank.say(Failed("nan", "the loss of step 3 is nan", ""))
    rank.end(Exit(1, None))
    assert scene.next() == SeatOver(trial="t0001", attempt=1, kind="nan", detail="the loss of step 3 is nan")


def test_a_start_that_fails_is_told(folder: Path) -> None:
    over = Scene(folder, refuses=True).next()
    assert over == SeatOver(trial="t0001", attempt=1, kind="start", detail="no stem")


def test_an_end_that_is_read_together_with_the_last_words_is_noticed(folder: Path) -> None:
    scene = Scene(folder)
    rank = scene.starter.ranks.get(timeout=10)
    line = Line(rank.facts.socket_path)
    rank.say(_step(10), Stopped(10, "told to leave"))
    asking = threading.Thread(target=lambda: line.report(10, {"loss": 2.0}))
    asking.start()
    while not isinstance(scene.next(), SeatReport):
        pass
    rank.end(Exit(0, None))
    scene.attempt.command("leave")
    assert scene.next() == SeatOver(trial="t0001", attempt=1)
    asking.join()
    line.close()
