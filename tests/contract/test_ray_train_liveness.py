"""A node is gone when nobody listens where its daemon did, and there while the kernel answers for it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from orchestrator.adapters.ray_train import liveness
from orchestrator.adapters.ray_train.liveness import is_gone, until_gone


def listening() -> socket.socket:
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    door.listen()
    return door


def test_a_daemon_that_listens_is_there_although_nobody_takes_the_call() -> None:
    with listening() as door:
        assert not is_gone("n", {"n": door.getsockname()})
        address = door.getsockname()
    assert is_gone("n", {"n": address})
    assert is_gone("unknown", {"n": address})


def test_a_machine_that_answers_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(address: object, timeout: float) -> socket.socket:
        assert timeout == liveness.PROBE_S
        raise TimeoutError

    monkeypatch.setattr(liveness.socket, "create_connection", silence)
    assert is_gone("n", {"n": ("10.0.0.7", 1)})


def test_the_end_of_a_node_is_waited_for() -> None:
    async def ends() -> bool:
        door = listening()
        waiting = asyncio.create_task(until_gone("n", {"n": door.getsockname()}, every_s=0.01))
        await asyncio.sleep(0.05)
        was_there = not waiting.done()
        door.close()
        await asyncio.wait_for(waiting, 30)
        return was_there

    assert asyncio.run(ends())
