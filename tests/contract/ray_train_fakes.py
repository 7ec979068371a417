"""Fakes for the driver's side of Ray Train: ranks that follow a script, a hub without actors, a clock by hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.train.config import OptimizerConfig, RankJob, StartRequest
from jobs.train.messages import Control, Message
from jobs.train.starters import Exit, RankHandle, StartError
from orchestrator.adapters.ray_train.protocol import AttemptPlan, Hung, Order, RunOver, Said, StacksOf

OPTIMIZER = OptimizerConfig(
    name="adamw",
    lr=1e-3,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    gradient_clipping=1.0,
    schedule="constant",
    warmup_steps=0,
    min_lr_ratio=1.0,
)

JOB = RankJob(
    run_id="r",
    attempt=1,
    task="jobs.models.gpt:task",
    args={},
    dataset_dir="/nowhere",
    seed=0,
    global_batch_size=8,
    micro_batch_size=2,
    steps=10,
    start_step=0,
    zero_stage=1,
    precision="fp32",
    optimizer=OPTIMIZER,
    ds_extra={},
    storage_url="",
    restore=None,
    snapshot_every_steps=5,
    checkpoint_every_s=60.0,
    keeper_socket="",
    on_nan="stop",
    strict=False,
    code_paths=(),
    collective_timeout_s=60.0,
)


def plan(attempt: int = 1, world_size: int = 2, ranks_per_worker: int = 1) -> AttemptPlan:
    return AttemptPlan(
        attempt=attempt, world_size=world_size, ranks_per_worker=ranks_per_worker, nodes=("n",) * world_size, job=JOB
    )


class FakeRank:
    """A rank that says `script` and then ends as `exit_` says; with `exit_` None it runs until it is told to stop."""

    def __init__(self, request: StartRequest, script: list[Message], exit_: Exit | None) -> None:
        self.request = request
        self.rank = request.rank
        self.pid = 1000 + request.rank
        self.sent: list[Control] = []
        self.closed = False
        self._script = script
        self._exit = exit_
        self._reader, self._writer = os.pipe()
        os.write(self._writer, b"!")

    def fileno(self) -> int:
        return self._reader

    def poll(self) -> list[Message]:
        if not self._script and self._exit is None:
            os.set_blocking(self._reader, False)
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 1)
        script, self._script = self._script, []
        return script

    def messages(self) -> Iterator[Message]:
        yield from self.poll()

    def send(self, control: Control) -> None:
        self.sent.append(control)

    def end(self, script: list[Message], exit_: Exit) -> None:
        self._script, self._exit = script, exit_
        os.write(self._writer, b"!")

    def signal(self, signum: int) -> None:
        self._exit = Exit(None, signum)

    def wait(self, timeout_s: float | None = None) -> Exit | None:
        return None if self._script else self._exit

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._reader)
            os.close(self._writer)


@dataclass
class FakeStarter:
    """Starts fakes by rank: `scripts[rank] = (messages, exit)`; a rank without script cannot be started."""

    scripts: dict[int, tuple[list[Message], Exit | None]]
    started: list[FakeRank] = field(default_factory=list)

    def start(self, request: StartRequest, *, output_fd: int | None = None) -> RankHandle:
        if request.rank not in self.scripts:
            raise StartError(f"no stem for rank {request.rank}")
        script, exit_ = self.scripts[request.rank]
        self.started.append(FakeRank(request, list(script), exit_))
        return self.started[-1]


class FakeLink:
    """A supervisor's link that remembers what was said; `give` hands over orders."""

    def __init__(self) -> None:
        self.said: list[Said | Hung | StacksOf] = []
        self._orders: list[Order] = []
        self._reader, self._writer = os.pipe()

    def say(self, said: list[Said | Hung | StacksOf]) -> None:
        self.said.extend(said)

    def give(self, order: Order) -> None:
        self._orders.append(order)
        os.write(self._writer, b"!")

    def fileno(self) -> int:
        return self._reader

    def orders(self) -> list[Order]:
        os.read(self._reader, 64)
        orders, self._orders = self._orders, []
        return orders

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@dataclass
class FakeHub:
    """The driver's side of the hub."""

    offers: list[AttemptPlan | RunOver] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)

    def offer(self, offer: AttemptPlan | RunOver) -> None:
        self.offers.append(offer)

    def order(self, order: Order) -> None:
        self.orders.append(order)
