"""The process group of one attempt: rendezvous, collectives with a deadline, and the small sum of every step."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, SupportsFloat

import torch
import torch.distributed as dist
from deepspeed.utils import groups as deepspeed_groups

from jobs.train.config import StartRequest
from jobs.train.host_names import names_from_hosts_file
from jobs.train.late import LateSum
from jobs.train.tree import MIN_RANKS_BESIDE, Tree, barrier, broadcast, enroll, forget_all, tree_of
from jobs.train.tree_backend import install

# How often a rank looks whether rank 0 is there: all of them together, at most two thousand times a second.
LISTEN_LOOK_S = 0.01
LISTEN_LOOK_S_PER_RANK = 0.0005
# Pairs of ranks are connected when they first speak. At once, N ranks open N^2 / 2 connections, most of them for
# nothing: a ring knows two neighbours. 200 ranks on two cores: 6.3 s at once, 2.5 s in all when needed.
GLOO_LAZY_INIT = {"TORCH_GLOO_LAZY_INIT": "1"}


@dataclass(frozen=True, slots=True)
class Groups:
    """`store` is the attempt's key-value store, on rank 0's node; `small` carries CPU tensors, whatever the device."""

    store: dist.Store
    small: Any


def join_group(request: StartRequest, device: torch.device) -> Groups:
    """Meet the other ranks; every collective from now on fails after the job's `collective_timeout_s`.

    Raises: torch's DistError family or RuntimeError when ranks do not come.
    """
    job = request.job
    timeout = timedelta(seconds=job.collective_timeout_s)
    # DeepSpeed reads these instead of asking the group.
    places = {"RANK": request.rank, "WORLD_SIZE": request.world_size, "LOCAL_RANK": request.local_rank}
    os.environ.update({name: str(value) for name, value in places.items()} | GLOO_LAZY_INIT)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if request.rank != 0:
        every_s = max(LISTEN_LOOK_S, LISTEN_LOOK_S_PER_RANK * request.world_size)
        wait_until_listening(request.master_addr, request.master_port, job.collective_timeout_s, every_s)
    with names_from_hosts_file():
        # Rank 0 does not wait for the others here: the first collective does.
        store = dist.TCPStore(
            request.master_addr,
            request.master_port,
            world_size=request.world_size,
            is_master=request.rank == 0,
            timeout=timeout,
            wait_for_workers=False,
        )
        dist.init_process_group(
            backend,
            store=store,
            rank=request.rank,
            world_size=request.world_size,
            timeout=timeout,
            device_id=_bind(device),
        )
        if backend == "gloo":
            install()
            tree = enroll(dist.group.WORLD)
            # What the store's peers take to connect shall not be charged to the model.
            barrier(dist.group.WORLD)
            if tree is not None:
                tree.look_around()
    # DeepSpeed would clone the world: another full mesh of connections, and without this timeout. Its reason, that
    # `get_global_rank` fails on the world itself, went with torch 2.0.
    deepspeed_groups._WORLD_GROUP = dist.group.WORLD
    # Gloo tags its operations, so the small sums need no group of their own beside it (a full mesh of connections
    # each); NCCL cannot carry CPU tensors.
    small = dist.group.WORLD
    if backend != "gloo":
        small = dist.new_group(backend="gloo", timeout=timeout)
        enroll(small, MIN_RANKS_BESIDE)
    return Groups(store=store, small=small)


def wait_until_listening(host: str, port: int, timeout_s: float, every_s: float = LISTEN_LOOK_S) -> None:
    """Return when rank 0's store takes connections, or after `timeout_s`: then the store itself says what is wrong.

    Its own second try comes half a second and more after the first, and ranks seldom start in order.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection((host, port), timeout=timeout_s).close()
            return
        except ConnectionRefusedError:
            time.sleep(every_s)
        except OSError:
            return


def _bind(device: torch.device) -> torch.device | None:
    return device if device.type == "cuda" else None


class PendingSum:
    """A sum over ranks in flight. Among many ranks it is made where it is waited for: their tree is quick."""

    def __init__(self, vector: Sequence[SupportsFloat], group: Any) -> None:
        self._tensor = torch.tensor([float(value) for value in vector], dtype=torch.float64)
        self._tree: Tree | None = tree_of(group)
        self._work = None if self._tree else dist.all_reduce(self._tensor, group=group, async_op=True)

    def wait(self) -> list[float]:
        """The sum. Raises: RuntimeError if a rank is gone or silent."""
        if self._tree is not None:
            self._tree.all_reduce(self._tensor)
        else:
            self._work.wait()
        return [float(value) for value in self._tensor]


class StepSum:
    """A step's sum. What the host knows travels over `groups.small`, which notices a lost rank; what a device is still
    computing over the devices' own group, so that nobody waits for it before the sum is read."""

    def __init__(self, vector: Sequence[SupportsFloat], groups: Groups) -> None:
        on_device = {at: v for at, v in enumerate(vector) if isinstance(v, torch.Tensor) and v.device.type != "cpu"}
        self._places = list(on_device)
        self._known = PendingSum([0.0 if at in on_device else v for at, v in enumerate(vector)], groups.small)
        self._late = LateSum(list(on_device.values()), dist.group.WORLD) if on_device else None

    def wait(self) -> list[float]:
        """The sum. Raises: RuntimeError if a rank is gone or silent."""
        total = self._known.wait()
        for at, value in zip(self._places, self._late.wait() if self._late else (), strict=True):
            total[at] = value
        return total


def all_succeed(mine: bool, group: Any) -> bool:
    """Whether every rank says yes; collective."""
    return PendingSum((0.0 if mine else 1.0,), group).wait()[0] == 0.0


def share_text(text: str, rank: int, group: Any) -> str:
    """What rank 0 passed, on every rank; collective."""
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if rank == 0 else torch.empty(0)
    size = torch.tensor([data.numel()], dtype=torch.int64)
    broadcast(size, group)
    if rank != 0:
        data = torch.empty(int(size), dtype=torch.uint8)
    broadcast(data, group)
    return bytes(data.numpy()).decode()


def leave_group(groups: Groups) -> None:
    """Close connections in an orderly way, so that no peer takes a finished rank for a lost one."""
    barrier(groups.small)
    forget_all()
    dist.destroy_process_group()
