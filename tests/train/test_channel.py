"""A rank's pipes: what it is told, what it says, and how it learns that nobody listens any more."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.train import wire
from jobs.train.channel import Channel
from jobs.train.messages import Checkpoint, Phase, Stop, decode, encode
from tests.train.ranks import make_job, requests


class Ends:
    """Both ends of a channel's pipes, and the channel."""

    def __init__(self) -> None:
        self.said_r, said_w = os.pipe()
        told_r, self.told_w = os.pipe()
        self.channel = Channel(said_w, told_r)
        self.orphaned = threading.Event()

    def watch(self) -> None:
        self.channel.watch(on_orphaned=self.orphaned.set)

    def tell(self, data: bytes) -> None:
        os.write(self.told_w, data)

    def hang_up(self) -> None:
        os.close(self.told_w)
        assert self.orphaned.wait(10)


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = signal.getsignal(signal.SIGTERM)
    yield Ends()
    signal.signal(signal.SIGTERM, before)


def test_the_request_comes_first_and_wishes_behind_it_are_not_lost(ends: Ends, tmp_path: Path) -> None:
    [request] = requests(make_job(tmp_path), 1)
    ends.tell(wire.dump(request) + b"\n" + encode(Stop("early")))
    assert ends.channel.read_request() == request
    ends.watch()
    assert ends.channel.stop_reason == "early"
    ends.hang_up()


def test_wishes_arrive_and_the_first_reason_counts(ends: Ends) -> None:
    ends.watch()
    ends.tell(encode(Checkpoint()) + encode(Stop("drain")) + encode(Stop("pause")))
    ends.hang_up()
    assert (ends.channel.checkpoint_wanted, ends.channel.stop_reason) == (True, "drain")
    assert ends.channel.stop_asked_s > 0


def test_sigterm_is_a_wish_to_stop(ends: Ends) -> None:
    ends.watch()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ends.channel.stop_reason == "SIGTERM"
    ends.hang_up()


@pytest.mark.parametrize("line", [b"nonsense\n", encode(Phase("engine", 1.0))])
def test_a_supervisor_that_talks_nonsense_counts_as_gone(ends: Ends, line: bytes) -> None:
    ends.watch()
    ends.tell(line)
    assert ends.orphaned.wait(10)


def test_a_request_that_never_comes_is_the_end_of_the_file(ends: Ends) -> None:
    os.close(ends.told_w)
    with pytest.raises(EOFError):
        ends.channel.read_request()


def test_messages_leave_whole_and_a_closed_pipe_is_no_error(ends: Ends) -> None:
    ends.channel.send(Phase("engine", 1.5))
    assert decode(os.read(ends.said_r, 4096)) == Phase("engine", 1.5)
    os.close(ends.said_r)
    ends.channel.send(Phase("engine", 1.5))
