"""The actor on a node of a study: it holds workers of the lease there and runs trials' ranks on them.

It reserves in Ray what its workers may use, so nobody else is placed there meanwhile, and forks ranks from a stem that
has imported torch. It ends with the driver that owns it, and its ranks with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.train.forkserver import ForkServer, ForkServerStarter
from jobs.train.starters import StartError
from orchestrator.adapters.ray_train.names import NAMESPACE, short_id
from orchestrator.adapters.ray_train.node_agent import CACHE_VARIABLE
from orchestrator.adapters.ray_train.train_fn import free_port
from orchestrator.adapters.ray_tune.attempt import Attempt
from orchestrator.adapters.ray_tune.seat_messages import SeatItem, SeatOrder, SeatOver

STEM_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatConfig:
    """`key` is the seat's own, the rest the same for every seat of a study's session."""

    session: str
    key: str
    log_dir: str
    preload: tuple[str, ...]
    environment: dict[str, str]


class Seat:
    """The actor. Its constructor returns when ranks can be started."""

    def __init__(self, config: SeatConfig) -> None:
        self._node_id: str = ray.get_runtime_context().get_node_id()
        devices = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        self._devices = tuple(str(device) for device in devices)
        self._stack = contextlib.ExitStack()
        self._folder = self._make_folder(config)
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._free_devices = list(self._devices)
        self._items: list[SeatItem] = []
        self._news = threading.Condition()
        self._server = self._start_stem(config)

    def _make_folder(self, config: SeatConfig) -> Path:
        root = Path(os.environ.get("TIDE_NODE_DIR") or tempfile.gettempdir())
        folder = root / f"tide-{short_id(config.session + config.key)}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _start_stem(self, config: SeatConfig) -> ForkServer:
        Path(config.log_dir).mkdir(parents=True, exist_ok=True)
        log = (Path(config.log_dir) / f"stem-{short_id(config.key)}.log").open("ab")
        self._stack.callback(log.close)
        server = ForkServer(
            self._folder,
            preload=("jobs.study.session", *config.preload),
            # Ray lets an actor use as many threads as it reserves cores, and a process with threads cannot fork ranks.
            env={**config.environment, "OMP_NUM_THREADS": "1"},
            log_fd=log.fileno(),
            stem_module="jobs.study.stem",
        )
        self._stack.callback(server.close)
        server.warm(STEM_TIMEOUT_S)
        return server

    def ready(self) -> str:
        """The node's id, once ranks can be started."""
        return self._node_id

    def address(self) -> tuple[str, int]:
        """Where a rank 0 on this node may listen."""
        host = ray.util.get_node_ip_address()
        return host, free_port(host)

    def start(self, order: SeatOrder) -> None:
        """Begin this node's part of an attempt; how it goes comes as news."""
        key = (order.trial, order.attempt)
        try:
            if self._server.ensure():
                self._server.wait_ready(STEM_TIMEOUT_S)
        except StartError as error:
            self._say(SeatOver(trial=order.trial, attempt=order.attempt, kind="start", detail=str(error)))
            return
        if disk := os.environ.get(CACHE_VARIABLE):
            from jobs.data.close_by import close_by

            folder = close_by(Path(order.job.dataset_dir), Path(disk))
            order = replace(order, job=replace(order.job, dataset_dir=str(folder)))
        with self._news:
            count = len(order.ranks) if self._devices else 0
            devices = tuple(self._free_devices.pop(0) for _ in range(min(count, len(self._free_devices))))
        starter = ForkServerStarter(self._server.socket_path)

        def say(item: SeatItem) -> None:
            if isinstance(item, SeatOver):
                with self._news:
                    self._free_devices.extend(devices)
                    self._attempts.pop(key, None)
            self._say(item)

        attempt = Attempt(order, starter, self._folder, devices, say)
        with self._news:
            self._attempts[key] = attempt
        attempt.start()

    def _say(self, item: SeatItem) -> None:
        with self._news:
            self._items.append(item)
            self._news.notify_all()

    def command(self, trial: str, attempt: int, what: str) -> None:
        """Pass a command on; silently nothing for an attempt that is over."""
        with self._news:
            found = self._attempts.get((trial, attempt))
        if found is not None:
            found.command(what)

    def news(self, after: int, timeout_s: float) -> list[SeatItem]:
        """Items beyond the first `after`, waiting for one."""
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while len(self._items) <= after and (left_s := deadline_s - time.monotonic()) > 0:
                self._news.wait(left_s)
            return self._items[after:]

    def close(self) -> None:
        """End everything this seat started."""
        with self._news:
            attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.command("kill")
        self._stack.close()


def start_seat(config: SeatConfig, node_id: str, reserve: dict[str, float]) -> Any:
    """A seat on a node that reserves `reserve` there; its stem may still be warming up."""
    custom = {name: amount for name, amount in reserve.items() if name not in ("CPU", "GPU", "memory")}
    return (
        ray.remote(Seat)
        .options(
            name=f"tide-seat-{config.session}-{short_id(config.key)}",
            namespace=NAMESPACE,
            num_cpus=reserve.get("CPU", 0.0),
            num_gpus=reserve.get("GPU", 0.0),
            memory=reserve.get("memory") or None,
            resources=custom or None,
            max_concurrency=16,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(config)
    )
