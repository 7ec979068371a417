"""Notices from this machine: a file, a signal, a preStop hook; and all sources put together."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from jobs.train.notices.file import FileSource
from jobs.train.notices.hook import TOKEN_HEADER, HookSource
from jobs.train.notices.signals import SignalSource
from jobs.train.notices.values import NoticeKind, SourceError
from jobs.train.notices.watch import HookConfig, NoticeConfig, NoticeWatch
from jobs.train.notices.watcher import Health, Pace
from tests.train.notices.servers import Asked, Said, json_said

PACE = Pace(interval_s=0.01, wait_s=0.0, most_s=0.05, absent_s=1.0, absent_after=2)
CONFIG = NoticeConfig(sources=(), deadline_s=30.0, pace=PACE, connect_timeout_s=20.0, read_timeout_s=20.0)


def config(**changes: object) -> NoticeConfig:
    fields = {name: getattr(CONFIG, name) for name in CONFIG.__slots__}
    return NoticeConfig(**{**fields, **changes})


@pytest.fixture
def file_source(tmp_path):
    path = tmp_path / "notice"

    def write(text: str) -> Path:
        path.write_text(text)
        os.utime(path, (1000.0, 1000.0))
        return path

    return write, FileSource(path, 30.0, clock=lambda: 1010.0)


def test_no_file_no_notice(file_source):
    assert file_source[1].poll(0) == ()


@pytest.mark.parametrize(
    ("text", "kind", "deadline_s"),
    [
        ("", NoticeKind.DRAIN, 20.0),  # written 10 s ago, 30 s of grace
        ("45", NoticeKind.DRAIN, 35.0),
        ('{"kind": "preempt", "deadline_s": 15}', NoticeKind.PREEMPT, 5.0),
        ('{"deadline_s": 5}', NoticeKind.DRAIN, 0.0),
        ('{"deadline": "1970-01-01T00:17:10Z"}', NoticeKind.DRAIN, 20.0),
    ],
)
def test_a_file_says_what_comes_and_when(file_source, text, kind, deadline_s):
    write, source = file_source
    write(text)
    (notice,) = source.poll(0)
    assert (notice.kind, notice.deadline_s, notice.advisory) == (kind, deadline_s, False)
    assert source.poll(0)[0].id == notice.id


@pytest.mark.parametrize("text", ['{"kind": "party"}', "{", "[1]", '{"when": 3}', '{"deadline": "soon"}', "\xff"])
def test_a_file_that_makes_no_sense_is_an_error(file_source, text):
    write, source = file_source
    write(text)
    with pytest.raises(SourceError):
        source.poll(0)


def test_a_signal_becomes_a_notice_and_the_handler_before_is_called_too():
    before: list[int] = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: before.append(number))
    try:
        source = SignalSource(30.0)
        assert source.poll(0) == ()
        os.kill(os.getpid(), signal.SIGTERM)
        (notice,) = source.poll(20)
        assert (notice.kind, notice.id) == (NoticeKind.TERMINATE, "SIGTERM")
        assert 0 < notice.deadline_s <= 30
        assert before == [signal.SIGTERM]
        source.close()
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(before) == 2, "the handler was given back"
    finally:
        signal.signal(signal.SIGTERM, old)


def test_a_signal_wakes_a_poll_that_waits_in_another_thread():
    old = signal.getsignal(signal.SIGTERM)
    source = SignalSource(30.0)
    heard = []
    thread = threading.Thread(target=lambda: heard.append(source.poll(20)))
    thread.start()
    signal.signal(signal.SIGTERM, source._on_signal)
    source._before = {}
    os.kill(os.getpid(), signal.SIGTERM)
    thread.join(20)
    signal.signal(signal.SIGTERM, old)
    assert len(heard[0]) == 1


def ask(hook: HookSource, path: str = "/prestop", token: str = "t", method: str = "GET") -> int:
    connection = http.client.HTTPConnection(*hook.address, timeout=20)
    connection.request(method, path, headers={TOKEN_HEADER: token})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture
def hook():
    source = HookSource("127.0.0.1", 0, token="t", grace_s=30.0, hold_s=0.0)
    yield source
    source.close()


def test_the_hook_is_a_notice(hook):
    assert hook.poll(0) == ()
    assert ask(hook) == 200
    (notice,) = hook.poll(0)
    assert (notice.kind, notice.id) == (NoticeKind.TERMINATE, "prestop")
    assert 0 < notice.deadline_s <= 30


def test_the_hook_without_the_token_is_refused_and_no_notice(hook):
    assert ask(hook, token="wrong") == 403
    assert ask(hook, path="/other") == 404
    assert hook.poll(0) == ()


def test_the_hook_holds_sigterm_back_until_the_node_is_drained():
    source = HookSource("127.0.0.1", 0, token="t", grace_s=30.0, hold_s=20.0)
    answered = threading.Event()
    thread = threading.Thread(target=lambda: (ask(source), answered.set()))
    thread.start()
    assert source.poll(20)
    assert not answered.is_set()
    source.release()
    assert answered.wait(20)
    thread.join()
    source.close()


def test_a_hook_without_a_token_cannot_be_made():
    with pytest.raises(ValueError, match="without a token"):
        HookSource("127.0.0.1", 0, token="", grace_s=1.0, hold_s=0.0)


def test_every_named_source_is_listened_to_and_nobody_else_is_asked(metadata, tmp_path):
    def aws(asked: Asked) -> Said:
        if asked.path == "/latest/api/token":
            return Said(body=b"T")
        found = asked.path.endswith("instance-action")
        return json_said({"action": "terminate", "time": "2099-01-01T00:00:00Z"}) if found else Said(404)

    named, other = metadata(aws), metadata(lambda asked: Said(500))
    heard: dict[str, threading.Event] = {"aws": threading.Event(), "file": threading.Event()}
    path = tmp_path / "notice"
    urls = {"aws": named.url, "gcp": other.url}
    watch = NoticeWatch(config(sources=("aws", "file"), file=path, urls=urls), lambda n: heard[n.source].set())
    watch.start()
    path.with_suffix(".new").write_text(json.dumps({"deadline_s": 60}))
    path.with_suffix(".new").rename(path)
    assert heard["aws"].wait(20)
    assert heard["file"].wait(20)
    watch.close()
    assert other.asked == []
    assert watch.states()["aws"].health is Health.OK


def test_an_absent_service_is_noticed_and_costs_no_busy_loop(unused_port_url):
    watch = NoticeWatch(config(sources=("aws",), urls={"aws": unused_port_url}), lambda notice: None)
    source = watch.sources[0]
    polls = []
    poll = source.poll
    absent = threading.Event()

    def counted(timeout_s: float):
        polls.append(1)
        if len(polls) > PACE.absent_after:
            absent.set()
        return poll(timeout_s)

    source.poll = counted
    watch.start()
    assert absent.wait(20)
    assert watch.states()["aws"].health is Health.ABSENT
    watch.close()


def test_sources_that_cannot_be_made_leave_nothing_behind(tmp_path):
    old = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="none is named"):
        NoticeWatch(config(sources=("kubernetes", "file")), lambda notice: None)
    assert signal.getsignal(signal.SIGTERM) is old


def test_being_drained_lets_the_hook_go():
    hook_config = HookConfig(host="127.0.0.1", port=0, token="t", hold_s=20.0)
    old = signal.getsignal(signal.SIGTERM)
    watch = NoticeWatch(config(sources=("kubernetes",), hook=hook_config), lambda notice: watch.drained(notice))
    watch.start()
    hook = watch.sources[1].made
    assert ask(hook) == 200
    watch.close()
    assert signal.getsignal(signal.SIGTERM) is old


def test_a_hook_whose_port_is_taken_is_had_when_its_owner_leaves():
    first = HookSource("127.0.0.1", 0, token="t", grace_s=30.0, hold_s=0.0)
    hook = HookConfig(host="127.0.0.1", port=first.address[1], token="t", hold_s=0.0)
    watch = NoticeWatch(config(sources=("kubernetes",), hook=hook, signals=False), lambda notice: None)
    (late,) = watch.sources
    with pytest.raises(SourceError, match="in use"):
        late.poll(0)
    first.close()
    assert late.poll(0) == ()
    assert ask(late.made) == 200
    (notice,) = late.poll(0)
    assert notice.source == "prestop"
    watch.close()
