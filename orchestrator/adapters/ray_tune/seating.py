"""What a study holds of the cluster: seats on its nodes, taken and given back as nodes, room and the lease change.

A seat reserves its workers when it is taken and cannot grow. More room on a node is another seat beside it, so whoever
runs there is not disturbed; less is given back by whole seats, those in which nobody runs first, and what one gave back
too much is taken again. Knows nothing of attempts but who is busy.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import structlog

from orchestrator.adapters.ray_train.capacity import NodeView, read_nodes, room
from orchestrator.adapters.ray_tune.seat import SeatConfig, start_seat
from orchestrator.spec.errors import ExitCode, UserError

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
SEAT_TRIES = 3
RETRY_SEAT_S = 1.0


class Allotment(Protocol):
    """Who bounds what a study may hold, node by node."""

    def lease(self) -> Mapping[str, int]:
        """Workers that it may have, by node."""
        ...

    def holds(self, workers: Mapping[str, int]) -> None:
        """It is told what the study's seats hold, a little after every change."""
        ...


@dataclass(slots=True)
class HeldSeat:
    """A seat as the driver knows it: `workers` it can run on `node`; not `ready` while its stem warms up; `draining`
    when nobody shall start there; one that `leaves` goes once nobody runs there. `read` and `asked` are of its news."""

    node: str
    handle: Any
    workers: int
    starting: Any
    ready: bool = False
    draining: bool = False
    leaves: bool = False
    read: int = 0
    asked: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatingConfig:
    """`per_worker`: what a worker reserves in Ray. `allotment`: None = all that is free may be held."""

    session: str
    per_worker: Mapping[str, float]
    most_workers: int
    log_dir: Path
    preload: tuple[str, ...]
    allotment: Allotment | None


class Seating:
    """The seats by their keys. `on_drain`: ask who runs there to leave; `on_lost`: the seat is gone, and with it who
    ran there. Use from one thread."""

    def __init__(
        self,
        config: SeatingConfig,
        *,
        is_busy: Callable[[str], bool],
        on_ready: Callable[[str], None],
        on_drain: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._config = config
        self._needs = {name: amount for name, amount in config.per_worker.items() if amount}
        self._is_busy, self._on_ready, self._on_drain, self._on_lost = is_busy, on_ready, on_drain, on_lost
        self._numbers = itertools.count(1)
        self._looked_s = float("-inf")
        self._refused: dict[str, tuple[int, float]] = {}  # nodes whose seats did not start: how often, not before when
        self.seats: dict[str, HeldSeat] = {}

    def open_seats(self) -> dict[str, HeldSeat]:
        """Where attempts may start."""
        return {key: seat for key, seat in self.seats.items() if seat.ready and not seat.draining}

    def look(self) -> None:
        """Take and give back; a few times a minute would do, it is cheap. Raises: UserError where no node seats
        anybody."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        nodes = read_nodes()
        alive = {node.node_id: node for node in nodes}
        for key in [key for key, seat in self.seats.items() if seat.node not in alive]:
            self.lost(key, "the node is gone")
        for key, seat in list(self.seats.items()):
            if alive[seat.node].drain_deadline_s is not None and not seat.draining:
                self._drain(key, seat)
            elif not seat.ready:
                self._check_ready(key, seat)
        leased = None if self._config.allotment is None else self._config.allotment.lease()
        if leased is not None:
            self._give_back(leased)
        self._sit_down(nodes, leased)
        if self._config.allotment is not None:
            self._config.allotment.holds(self._held())

    def _held(self) -> Counter[str]:
        """Workers by node, those of seats that are being given back included."""
        held: Counter[str] = Counter()
        for seat in self.seats.values():
            held[seat.node] += seat.workers
        return held

    def _give_back(self, leased: Mapping[str, int]) -> None:
        for node in sorted(self._held()):
            staying = {key: seat.workers for key, seat in self.seats.items() if seat.node == node and not seat.leaves}
            busy = {key for key in staying if self._is_busy(key)}
            for key in to_give_back(staying, busy, leased.get(node, 0)):
                seat = self.seats[key]
                seat.leaves = True
                if not seat.draining:
                    self._drain(key, seat)
        for key in [key for key, seat in self.seats.items() if seat.leaves and not self._is_busy(key)]:
            self._retire(key)

    def _retire(self, key: str) -> None:
        seat = self.seats.pop(key)
        if seat.ready:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.wait([seat.handle.close.remote()], timeout=10.0)
        ray.kill(seat.handle)

    def _sit_down(self, nodes: tuple[NodeView, ...], leased: Mapping[str, int] | None) -> None:
        total = sum(seat.workers for seat in self.seats.values() if not seat.draining)
        held = self._held()
        # What a seat reserves is seen in Ray's figures once it has started; until then its node has no other.
        unsettled = {seat.node for seat in self.seats.values() if not seat.ready or seat.leaves}
        for node, fits in room(nodes, self._needs, {}, 1).items():
            count = min(fits, self._config.most_workers - total)
            if leased is not None:
                count = min(count, leased.get(node, 0) - held[node])
            if node in unsettled or count < 1 or time.monotonic() < self._refused.get(node, (0, 0.0))[1]:
                continue
            self._take(node, count)
            total += count

    def _take(self, node: str, workers: int) -> None:
        key = f"{node}.{next(self._numbers)}"
        config = SeatConfig(
            session=self._config.session,
            key=key,
            log_dir=str(self._config.log_dir),
            preload=self._config.preload,
            environment={},
        )
        reserve = {name: amount * workers for name, amount in self._needs.items()}
        handle = start_seat(config, node, reserve)
        self.seats[key] = HeldSeat(node=node, handle=handle, workers=workers, starting=handle.ready.remote())

    def _check_ready(self, key: str, seat: HeldSeat) -> None:
        done, _ = ray.wait([seat.starting], timeout=0)
        if not done:
            return
        try:
            ray.get(seat.starting)
        except ray.exceptions.RayError as error:
            self.lost(key, "the seat did not start")
            self._refuse(seat.node, str(error))
            return
        seat.ready = True
        self._on_ready(key)

    def _refuse(self, node: str, why: str) -> None:
        """Try a node again later, ever later. Raises: UserError when no node of several tries could seat anybody."""
        count = self._refused.get(node, (0, 0.0))[0] + 1
        self._refused[node] = (count, time.monotonic() + RETRY_SEAT_S * 2**count)
        log.warning("no trial can run on this node", node=node, tries=count, error=why.strip()[-400:])
        if count >= SEAT_TRIES and not self.seats:
            raise UserError(
                f"no node can run trials: {why.strip().splitlines()[-1]}",
                code=ExitCode.UNREACHABLE,
                next_step=f"Output of the nodes: {self._config.log_dir}; 'tide doctor' checks this machine",
            )

    def _drain(self, key: str, seat: HeldSeat) -> None:
        """A notice, or a smaller lease: attempts there save and leave while there is time."""
        seat.draining = True
        self._on_drain(key)

    def lost(self, key: str, detail: str) -> None:
        """A seat is gone."""
        seat = self.seats.pop(key)
        log.info("a seat is gone", node=seat.node, detail=detail)
        with contextlib.suppress(ray.exceptions.RayError):  # it may be gone already
            ray.kill(seat.handle)
        self._on_lost(key)

    def close(self) -> None:
        """End every seat, and with it what runs there."""
        closing = [seat.handle.close.remote() for seat in self.seats.values() if seat.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=10.0)
        for seat in self.seats.values():
            ray.kill(seat.handle)
        self.seats.clear()


def to_give_back(seats: Mapping[str, int], busy: set[str], may: int) -> tuple[str, ...]:
    """Which of a node's seats (workers by key) to give up so that at most `may` workers stay.

    Those in which nobody runs first; of the others as few as will do, and the smallest that does.
    """
    gone: list[str] = []
    while (over := sum(seats.values()) - sum(seats[key] for key in gone) - may) > 0:
        left = [key for key in seats if key not in gone]
        idle = [key for key in left if key not in busy]
        candidates = idle or left
        enough = [key for key in candidates if seats[key] >= over]
        chosen = (
            min(enough, key=lambda key: (seats[key], key))
            if enough
            else max(candidates, key=lambda key: (seats[key], key))
        )
        gone.append(chosen)
    return tuple(gone)
