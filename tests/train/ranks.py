"""Starts groups of real ranks for tests and listens to all of them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from jobs.train import messages
from jobs.train.config import OptimizerConfig, RankJob, StartRequest
from jobs.train.starters import Exit, RankHandle, RankStarter

PATIENCE_S = 120.0
M = TypeVar("M")

ADAMW = OptimizerConfig(
    name="adamw",
    lr=3e-3,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    gradient_clipping=1.0,
    schedule="cosine",
    warmup_steps=2,
    min_lr_ratio=0.1,
)


def make_job(dataset: Path, **changes: Any) -> RankJob:
    """A GPT of 20,000 parameters with dropout; 10 samples a step in 4 micro-batches, which 3 does not divide."""
    job = RankJob(
        run_id="test",
        attempt=0,
        task="jobs.models.gpt:task",
        args={"layers": 2, "d_model": 32, "heads": 2, "seq_len": 32, "dropout": 0.1},
        dataset_dir=str(dataset),
        seed=1,
        global_batch_size=10,
        micro_batch_size=3,
        steps=12,
        start_step=0,
        zero_stage=1,
        precision="fp32",
        optimizer=ADAMW,
        ds_extra={},
        storage_url="",
        restore=None,
        snapshot_every_steps=0,
        checkpoint_every_s=0.0,
        keeper_socket="",
        on_nan="stop",
        strict=False,
        code_paths=(),
        collective_timeout_s=60.0,
    )
    return replace(job, **changes)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def requests(job: RankJob, world_size: int, env: dict[str, str] | None = None) -> list[StartRequest]:
    port = free_port()
    return [
        StartRequest(
            job=job,
            rank=rank,
            world_size=world_size,
            local_rank=rank,
            master_addr="127.0.0.1",
            master_port=port,
            env=env or {},
            cwd="",
        )
        for rank in range(world_size)
    ]


@dataclass
class Group:
    """Ranks that were started, and what each has said so far."""

    handles: list[RankHandle]
    said: list[list[messages.Message]]

    def listen(self, until: Callable[[Group], bool] | None = None) -> Group:
        """Take in messages until `until` holds, or all ranks have ended."""
        deadline_s = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            for rank, handle in enumerate(self.handles):
                selector.register(handle, selectors.EVENT_READ, rank)
            while not (until and until(self)) and not self._all_ended():
                assert selector.select(max(0.0, deadline_s - time.monotonic())), self.said
                self._take_in()
        self._take_in()  # looking for the end also reads what was said last
        return self

    def _take_in(self) -> None:
        for rank, handle in enumerate(self.handles):
            self.said[rank] += handle.poll()

    def _all_ended(self) -> bool:
        return all(handle.wait(0) is not None for handle in self.handles)

    def of(self, kind: type[M], rank: int = 0) -> list[M]:
        """What a rank said of one kind, in order."""
        return [message for message in self.said[rank] if isinstance(message, kind)]

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.of(messages.Step)]

    @property
    def exits(self) -> list[Exit | None]:
        return [handle.wait(0) for handle in self.handles]

    @property
    def last_words(self) -> list[messages.Message]:
        return [said[-1] for said in self.said]


@contextlib.contextmanager
def started(starter: RankStarter, job: RankJob, world_size: int, env: dict[str, str] | None = None) -> Iterator[Group]:
    """A group that is running; whatever is left of it is killed at the end."""
    with contextlib.ExitStack() as stack:
        handles = []
        for request in requests(job, world_size, env):
            handle = starter.start(request)
            stack.callback(handle.close)
            handles.append(handle)
        yield Group(handles, [[] for _ in handles])


def run(starter: RankStarter, job: RankJob, world_size: int, *, succeed: bool = True) -> Group:
    """A group run to its end, which must be a good one unless told otherwise."""
    with started(starter, job, world_size) as group:
        group.listen()
    if succeed:
        failures = [message for said in group.said for message in said if isinstance(message, messages.Failed)]
        assert not failures, failures[0].traceback
        assert group.exits == [Exit(0, None)] * world_size
    return group
