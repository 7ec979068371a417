"""Read an answer for a client that may leave or run out of time; either way its slot is given back at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from serving.engine.generation import Answer, Delta, Finished, FinishReason

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody reads the answer any more."""


async def while_listening(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Run `work` for as long as the client stays. Raises: ClientGoneError, with the work cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def events(answer: Answer, *, timeout_s: float) -> AsyncIterator[Delta | Finished]:
    """The answer's events, `Finished` last; after `timeout_s` it ends with what there is."""
    num_tokens, until_s = 0, asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            async with asyncio.timeout_at(until_s):
                event = await answer.next()
        except TimeoutError:
            answer.cancel()
            event = Finished(reason=FinishReason.TIMEOUT, num_tokens=num_tokens)
        yield event
        if isinstance(event, Finished):
            return
        num_tokens += event.num_tokens


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone; the body has been read, so nothing else can come."""
    while (await receive())["type"] != "http.disconnect":
        pass
