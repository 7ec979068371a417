"""What crosses process boundaries is checked where it arrives."""

from __future__ import annotations

import json
import math
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.train import messages, wire
from jobs.train.config import RankJob, RestoreFrom, StartRequest
from jobs.train.messages import LineBuffer, Stop, decode, encode
from jobs.train.wire import WireError
from tests.train.ranks import make_job, requests

EVERY_MESSAGE = st.one_of([st.from_type(kind) for kind in messages.KINDS])


def same(left: object, right: object) -> bool:
    """Equality that lets not-a-number equal itself."""
    return repr(left) == repr(right)


@given(EVERY_MESSAGE)
def test_every_message_survives_the_wire_on_one_line(message: messages.Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert same(decode(line), message)


def test_every_kind_of_message_is_known_by_name() -> None:
    assert {kind.__name__ for kind in messages.KINDS} >= {"Step", "Failed", "Stop", "Checkpoint"}
    assert set(typing.get_args(messages.Message)).isdisjoint(typing.get_args(messages.Control))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"hello", "not a message"),
        (b"[]", "not a message"),
        (b'{"v":1,"is":"Stop"}', "not a message"),
        (b'{"v":2,"is":"Stop","body":{"reason":"x"}}', "version 2"),
        (b'{"v":1,"is":"Halt","body":{}}', "unknown message 'Halt'"),
        (b'{"v":1,"is":"Stop","body":{}}', "reason"),
        (b'{"v":1,"is":"Stop","body":{"reason":7}}', "reason"),
        (b'{"v":1,"is":"Stop","body":{"reason":"x","now":true}}', "now"),
        (b'{"v":1,"is":"Failed","body":{"kind":"tired","detail":"","traceback":""}}', "kind"),
    ],
)
def test_anything_else_is_refused_with_what_is_wrong(line: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode(line)


def test_a_request_with_all_its_nesting_survives(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        args={"deep": [1, {"two": None}, 3.5, True, "four"]},
        restore=RestoreFrom(step=7, keepers=True),
        code_paths=("/a", "/b"),
    )
    [request] = requests(job, 1)
    assert wire.load(StartRequest, wire.dump(request)) == request


def test_every_wrong_field_of_a_request_is_named(tmp_path: Path) -> None:
    plain = json.loads(wire.dump(make_job(tmp_path)))
    plain["optimizer"]["lr"] = "fast"
    plain["zero_stage"] = 4
    del plain["seed"]
    with pytest.raises(WireError) as caught:
        wire.load(RankJob, json.dumps(plain))
    assert all(field in str(caught.value) for field in ("optimizer.lr", "zero_stage", "seed"))


def test_infinity_and_nan_are_numbers_on_this_wire() -> None:
    step = messages.Step(1, math.nan, 0.0, math.inf, 1, 1.0, 0, 0, 0.0)
    back = decode(encode(step))
    assert isinstance(back, messages.Step)
    assert (math.isnan(back.loss), back.grad_norm) == (True, math.inf)


@given(st.lists(st.text(max_size=8), max_size=5), st.data())
def test_lines_are_whole_however_the_stream_is_cut(reasons: list[str], data: st.DataObject) -> None:
    stream = b"".join(encode(Stop(reason)) for reason in reasons)
    buffer, found, at = LineBuffer(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += [decode(line) for line in buffer.feed(stream[at : at + size])]
        at += size
    assert found == [Stop(reason) for reason in reasons]
