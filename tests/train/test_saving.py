"""Saving beside the loop: what it waits for, and what happens when it cannot."""

from __future__ import annotations

import threading

import pytest
import torch

from jobs.train import messages
from jobs.train.saving import RunFacts, Saver
from jobs.train.state import (
    FP32,
    Manifest,
    MemorySource,
    Part,
    Piece,
    ShardView,
    StorageError,
    hash_blocks,
    load_into,
)

FACTS = RunFacts(run="r", attempt=2, rank=0, world_size=1, task={"task": "m:f", "args": {}}, dataset_hash="d")


def view_of(weight: torch.Tensor) -> ShardView:
    piece = Piece("weight", FP32, 0, weight.numel(), weight)
    return ShardView(
        rank=0,
        world_size=1,
        zero_stage=1,
        precision="fp32",
        shapes={"weight": (weight.numel(),)},
        owned=(piece,),
        wanted=(piece,),
    )


class MemorySink:
    """Keeps what is sealed; can refuse, fail, and be held up."""

    def __init__(self) -> None:
        self.sealed: list[tuple[Part, Manifest, bytes]] = []
        self.refuse = self.fail = False
        self.may_seal = threading.Event()
        self.may_seal.set()
        self._buffer = bytearray()

    def open(self, step: int, nbytes: int, *, final: bool) -> memoryview:
        if self.refuse:
            raise StorageError("is full")
        self._buffer = bytearray(nbytes)
        return memoryview(self._buffer)

    def seal(self, part: Part, manifest: Manifest) -> None:
        self.may_seal.wait()
        if self.fail:
            raise StorageError("went away")
        self.sealed.append((part, manifest, bytes(self._buffer)))


class Desk:
    """A saver, its sink and the state it saves."""

    def __init__(self) -> None:
        self.weight = torch.arange(1000, dtype=torch.float32)
        self.sink = MemorySink()
        self.sent: list[messages.Message] = []
        self.saver = Saver(FACTS, lambda: view_of(self.weight), self.sink, self.sent.append)


def test_a_saved_state_can_be_loaded_and_says_where_it_comes_from() -> None:
    desk = Desk()
    desk.saver.save(7, {"ledger": 1}, final=True)
    [(part, manifest, content)] = desk.sink.sealed
    assert (manifest.step, manifest.attempt, dict(manifest.replicated)) == (7, 2, {"ledger": 1})
    assert part.blocks == tuple(hash_blocks(memoryview(content)))
    restored = torch.zeros(1000)
    whole = Manifest(**{**{name: getattr(manifest, name) for name in manifest.__slots__}, "parts": (part,)})
    load_into(view_of(restored), whole, MemorySource({part.file: memoryview(content)}))
    assert torch.equal(restored, desk.weight)
    [said] = desk.sent
    assert isinstance(said, messages.Snapshot)
    assert (said.step, said.nbytes) == (7, part.nbytes)


def test_an_update_waits_for_the_copy_but_not_for_the_sealing() -> None:
    desk = Desk()
    before = desk.weight.clone()
    desk.sink.may_seal.clear()
    desk.saver.save(1, {}, final=False)
    desk.saver.before_update()
    desk.weight.add_(1)
    assert desk.sink.sealed == []
    desk.sink.may_seal.set()
    desk.saver.finish()
    [(_, _, content)] = desk.sink.sealed
    assert before.numpy().tobytes() in content


def test_a_second_save_waits_until_the_first_is_sealed() -> None:
    desk = Desk()
    desk.saver.save(1, {}, final=False)
    desk.saver.save(2, {}, final=False)
    assert [manifest.step for _, manifest, _ in desk.sink.sealed][:1] == [1]
    desk.saver.finish()
    assert [manifest.step for _, manifest, _ in desk.sink.sealed] == [1, 2]


@pytest.mark.parametrize("how", ["refuse", "fail"])
def test_a_save_that_fails_is_reported_and_the_next_one_is_tried(how: str) -> None:
    desk = Desk()
    setattr(desk.sink, how, True)
    desk.saver.save(1, {}, final=False)
    desk.saver.finish()
    assert [type(message) for message in desk.sent] == [messages.NotSaved]
    setattr(desk.sink, how, False)
    desk.saver.save(2, {}, final=False)
    desk.saver.finish()
    assert [manifest.step for _, manifest, _ in desk.sink.sealed] == [2]


@pytest.mark.parametrize("how", ["refuse", "fail"])
def test_the_last_save_must_succeed(how: str) -> None:
    desk = Desk()
    setattr(desk.sink, how, True)
    with pytest.raises(StorageError):
        desk.saver.save(1, {}, final=True)


def test_a_bug_in_the_background_is_not_taken_for_trouble_with_storage() -> None:
    desk = Desk()

    def broken(part: Part, manifest: Manifest) -> None:
        raise KeyError("oops")

    desk.sink.seal = broken  # type: ignore[method-assign]
    desk.saver.save(1, {}, final=False)
    with pytest.raises(KeyError):
        desk.saver.finish()
