"""A worker's day: ask the node for ranks, pass on what they say, hand them orders, leave in order.

Free of Ray and torch: the outside is two ports, `Link` (the run's hub) and `RankStarter` (the node's fork server), so
that every exit is tested with fakes. The train function around it is in `train_fn.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jobs.train.config import StartRequest
from jobs.train.messages import (
    Checkpoint,
    Control,
    Failed,
    Finished,
    Message,
    Pace,
    Phase,
    Step,
    Stop,
    Stopped,
    decode,
    encode,
)
from jobs.train.starters import Exit, RankHandle, RankStarter, StartError
from orchestrator.adapters.ray_train.protocol import Abort, Hung, Leaving, Left, Order, Place, Said, StacksOf
from orchestrator.adapters.ray_train.stacks import RankProcess, RankStack

# How long a group of messages may wait for company before it is sent; the live line shows nothing finer.
SEND_EVERY_S = 0.1


class Link(Protocol):
    """The supervisor's line to the run's hub."""

    def say(self, said: list[Said | Hung | StacksOf]) -> None:
        """Pass on rank messages; never blocks for long."""

    def fileno(self) -> int:
        """Readable when `orders` has something."""

    def orders(self) -> list[Order]:
        """Orders that have come in; never blocks."""


class Witness(Protocol):
    """Who is told which processes the ranks are, and can say where they stand."""

    def came(self, attempt: int, worker: int, ranks: Mapping[int, RankProcess]) -> None:
        """These ranks run; never blocks."""

    def gone(self, attempt: int, worker: int) -> None:
        """They do not run any more; never blocks."""

    def stacks(self, ranks: Mapping[int, RankProcess]) -> tuple[RankStack, ...]:
        """Where they stand; blocks for seconds at most."""


class NoWitness:
    """Nobody looks."""

    def came(self, attempt: int, worker: int, ranks: Mapping[int, RankProcess]) -> None:
        """Not noted."""

    def gone(self, attempt: int, worker: int) -> None:
        """Not noted."""

    def stacks(self, ranks: Mapping[int, RankProcess]) -> tuple[RankStack, ...]:
        """Not known."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a supervisor knows of its node.

    `keeper_socket` is "" where there is none; ranks read data in `dataset_dir`, run in folder `cwd`, and their output
    goes to `log_dir`; `env_of` gives a rank's extra environment by its number among this worker's ranks.
    """

    node_id: str
    keeper_socket: str
    dataset_dir: str
    cwd: str
    log_dir: Path
    env_of: Callable[[int], dict[str, str]]
    witness: Witness = field(default_factory=NoWitness)


@dataclass(slots=True)
class _Watched:
    """One rank under supervision and its last word."""

    handle: RankHandle
    process: RankProcess
    last_word: Finished | Stopped | Failed | None = None


class Supervisor:
    """Runs one worker's ranks of one attempt. `run` blocks until all of them are gone."""

    def __init__(self, place: Place, worker: int, node: Node, starter: RankStarter, link: Link) -> None:
        self._place = place
        self._worker = worker
        self._node = node
        self._starter = starter
        self._link = link
        self._ranks: dict[int, _Watched] = {}
        self._outbox: list[Said | Hung | StacksOf] = []
        self._sent_at = 0.0
        self._abort: Abort | None = None

    def run(self) -> Left:
        """Start the ranks and see them through; however this returns or raises, no rank of this worker is left."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._send, force=True)
            try:
                self._start(stack)
            except StartError as error:
                return self._left(Leaving.FAILED, kind="start", detail=str(error))
            number, witness = self._place.plan.attempt, self._node.witness
            stack.callback(witness.gone, number, self._worker)
            witness.came(number, self._worker, {rank: watched.process for rank, watched in self._ranks.items()})
            left = self._watch()
            if left.kind == "hang" or (self._abort is not None and self._abort.stacks):
                self._say_where_they_stand()
            return left

    def _start(self, stack: contextlib.ExitStack) -> None:
        self._node.log_dir.mkdir(parents=True, exist_ok=True)
        plan = self._place.plan
        for local_rank, rank in enumerate(plan.ranks_of(self._worker)):
            path = self._node.log_dir / f"rank-{rank}.log"
            output_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            request = self._request(rank, local_rank)
            try:
                handle = self._starter.start(request, output_fd=output_fd)
            finally:
                os.close(output_fd)
            stack.callback(handle.close)
            process = RankProcess(rank=rank, pid=handle.pid, log=str(path), env=_seen_by_commands(request))
            self._ranks[rank] = _Watched(handle, process)

    def _request(self, rank: int, local_rank: int) -> StartRequest:
        plan = self._place.plan
        return StartRequest(
            job=dataclasses.replace(
                plan.job, keeper_socket=self._node.keeper_socket, dataset_dir=self._node.dataset_dir
            ),
            rank=rank,
            world_size=plan.world_size,
            local_rank=local_rank,
            master_addr=self._place.master_addr,
            master_port=self._place.master_port,
            env=self._node.env_of(local_rank),
            cwd=self._node.cwd,
        )

    def _say_where_they_stand(self) -> None:
        """The stacks of ranks that still live, before they are killed: one of them is whom the others wait for."""
        living = {rank: one.process for rank, one in self._ranks.items() if one.handle.wait(0) is None}
        stacks = self._node.witness.stacks(living)
        if stacks:
            number = self._place.plan.attempt
            said = StacksOf(attempt=number, worker=self._worker, node_id=self._node.node_id, stacks=stacks)
            self._outbox.append(said)

    def _watch(self) -> Left:
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            for watched in self._ranks.values():
                selector.register(watched.handle, selectors.EVENT_READ, watched)
            while True:
                for key, _ in selector.select(SEND_EVERY_S if self._outbox else None):
                    if key.data is None:
                        self._obey(self._link.orders())
                        continue
                    verdict = self._listen(key.data, selector)
                    if verdict is not None:
                        return verdict
                if self._abort is not None:
                    return self._left(Leaving.ABORTED, detail=self._abort.reason)
                self._send()

    def _listen(self, watched: _Watched, selector: selectors.BaseSelector) -> Left | None:
        """Take what a rank says; the worker's verdict once it is known: at the first failure or at the last end."""
        for message in watched.handle.poll():
            self._hear(watched, message)
        exit_ = watched.handle.wait(0)
        if exit_ is None:
            return None
        for message in watched.handle.poll():
            self._hear(watched, message)
        selector.unregister(watched.handle)
        if not isinstance(watched.last_word, Finished | Stopped):
            return self._failed(watched, exit_)
        words = [other.last_word for other in self._ranks.values()]
        if any(not isinstance(word, Finished | Stopped) for word in words) or len(selector.get_map()) > 1:
            return None
        how = Leaving.FINISHED if isinstance(watched.last_word, Finished) else Leaving.STOPPED
        return self._left(how, step=watched.last_word.step)

    def _hear(self, watched: _Watched, message: Message) -> None:
        if isinstance(message, Finished | Stopped | Failed):
            watched.last_word = message
        if isinstance(message, Step) and watched.handle.rank != 0:
            return
        urgent = not isinstance(message, Step | Phase | Pace)
        if isinstance(message, Failed) and message.kind == "hang":
            self._outbox.append(Hung(attempt=self._place.plan.attempt, worker=self._worker))
        self._outbox.append(
            Said(
                attempt=self._place.plan.attempt,
                rank=watched.handle.rank,
                at_s=time.time(),
                line=encode(message),
            )
        )
        if urgent:
            self._send(force=True)

    def _failed(self, watched: _Watched, exit_: Exit) -> Left:
        word = watched.last_word
        if isinstance(word, Failed):
            return self._left(Leaving.FAILED, kind=word.kind, detail=word.detail)
        rank = watched.handle.rank
        if exit_.signal is not None:
            how = f"was killed by {signal.Signals(exit_.signal).name}"
        else:
            how = "vanished" if exit_.code is None else f"exited with code {exit_.code} without a word"
        return self._left(Leaving.FAILED, kind="killed", detail=f"rank {rank} {how}")

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Abort):
                self._abort = order
                return
            control = decode(order.line)
            for watched in self._ranks.values():
                watched.handle.send(_as_control(control))

    def _send(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self._outbox and (force or now - self._sent_at >= SEND_EVERY_S):
            outbox, self._outbox = self._outbox, []
            self._sent_at = now
            self._link.say(outbox)

    def _left(self, how: Leaving, *, step: int = 0, kind: str = "", detail: str = "") -> Left:
        return Left(
            attempt=self._place.plan.attempt,
            worker=self._worker,
            node_id=self._node.node_id,
            at_s=time.time(),
            how=how,
            step=step,
            kind=kind,
            detail=detail,
        )


def _seen_by_commands(request: StartRequest) -> dict[str, str]:
    """What a command beside a rank finds in its environment, beyond that of whoever starts ranks."""
    return {
        **request.env,
        "RANK": str(request.rank),
        "LOCAL_RANK": str(request.local_rank),
        "WORLD_SIZE": str(request.world_size),
        "TIDE_JOB": request.job.run_id,
    }


def _as_control(message: Message | Control) -> Control:
    assert isinstance(message, Stop | Checkpoint), f"{message} is not an order"
    return message
