"""Worker processes that outlive worker groups: one attempt's workers take a seat in the next.

Ray Train starts every group from nothing: 3 CPU-seconds for each worker, 4 s for three workers on two cores, most of a
resize. Here a worker whose attempt ended in order is used again, workers for new nodes are started while the old group
still trains, and a worker is pinned to the node for which the driver decided. An actor that has its resources is also
the proof that there is room, and nobody can take the room between proof and use.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker, Worker
from ray.train.v2._internal.util import bundle_to_remote_args
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.adapters.ray_train.liveness import Address, raylet_addresses, until_gone

# A worker between two attempts answers in milliseconds; one that does not is replaced.
ANSWER_S = 5.0
# A supervisor whose attempt was given up kills its ranks and leaves within this time.
LEAVE_S = 3.0


class NoRoom(Exception):  # noqa: N818 - not an error: the driver looks again
    """Workers did not come up in time; `nodes` counts how many on each node."""

    def __init__(self, nodes: Mapping[str, int]) -> None:
        super().__init__(dict(nodes))
        self.nodes = dict(nodes)

    def __str__(self) -> str:
        return "no worker came up on " + ", ".join(f"{node[:12]} ({n})" for node, n in sorted(self.nodes.items()))


class Bench:
    """All worker actors of a run's session, by node. Used by one controller, in one event loop."""

    def __init__(
        self, runtime_env: Mapping[str, Any], train_fn_ref: Any, changed: Callable[[dict[str, int]], None]
    ) -> None:
        """`train_fn_ref`: Ray Train's reference to the function that every worker will run."""
        self._runtime_env = dict(runtime_env)
        self._train_fn_ref = train_fn_ref
        self._changed = changed
        self._seats: dict[str, list[Worker]] = defaultdict(list)

    def held(self) -> dict[str, int]:
        """How many workers the run holds on each node."""
        return {node: len(workers) for node, workers in self._seats.items() if workers}

    async def seat(self, nodes: Iterable[str], resources: Mapping[str, float], timeout_s: float) -> list[Worker]:
        """Exactly these workers, in this order: idle ones of before where there are any, new ones elsewhere; all
        others are let go.

        Raises: WorkerGroupStartupFailedError when a node has no room after all or its worker dies.
        """
        order = list(nodes)
        wanted = Counter(order)
        await self.dismiss_unfit()
        for node in list(self._seats):
            self._let_go(node, keep=wanted.get(node, 0))
        try:
            await self.add(wanted, resources, timeout_s)
        except NoRoom as error:
            raise WorkerGroupStartupFailedError(str(error)) from error
        finally:
            self._changed(self.held())
        iterators = {node: iter(workers) for node, workers in self._seats.items()}
        return [next(iterators[node]) for node in order]

    async def add(self, wanted: Mapping[str, int], resources: Mapping[str, float], timeout_s: float) -> None:
        """Start what is missing for `wanted` workers on each node. All come or, after `timeout_s`, none.

        Raises: NoRoom.
        """
        missing = {node: count - len(self._seats[node]) for node, count in wanted.items()}
        starting = [
            asyncio.create_task(self._start(node, resources, timeout_s))
            for node, count in missing.items()
            for _ in range(max(0, count))
        ]
        results = await asyncio.gather(*starting, return_exceptions=True)
        workers = [result for result in results if isinstance(result, Worker)]
        failed = Counter(result.args[0] for result in results if isinstance(result, _NotStarted))
        unexpected = [x for x in results if isinstance(x, BaseException) and not isinstance(x, _NotStarted)]
        if failed or unexpected:
            for worker in workers:
                _end(worker.actor)
            if unexpected:
                raise unexpected[0]
            raise NoRoom(failed)
        for worker in workers:
            self._seats[worker.metadata.node_id].append(worker)
        self._changed(self.held())

    async def _start(self, node: str, resources: Mapping[str, float], timeout_s: float) -> Worker:
        actor = (
            ray.remote(RayTrainWorker)
            .options(
                runtime_env=self._runtime_env,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                **bundle_to_remote_args(dict(resources)),
            )
            .remote()
        )
        try:
            metadata = await asyncio.wait_for(_as_future(actor.get_metadata.remote()), timeout_s)
            await asyncio.wait_for(_as_future(actor.execute.remote(_get_ready, self._train_fn_ref)), timeout_s)
        except (TimeoutError, ray.exceptions.RayError) as error:
            _end(actor)
            raise _NotStarted(node) from error
        return Worker(actor, metadata, dict(resources))

    async def dismiss_unfit(self) -> set[str]:
        """End workers that are dead, do not answer, or still run an old attempt's supervisor; their nodes."""
        workers = [worker for workers in self._seats.values() for worker in workers]
        addresses = await asyncio.to_thread(raylet_addresses) if workers else {}
        fit = await asyncio.gather(*(_is_fit(worker, addresses) for worker in workers))
        for worker, is_fit in zip(workers, fit, strict=True):
            if not is_fit:
                self._seats[worker.metadata.node_id].remove(worker)
                _end(worker.actor)
        if not all(fit):  # their room is anybody's now
            self._changed(self.held())
        return {worker.metadata.node_id for worker, is_fit in zip(workers, fit, strict=True) if not is_fit}

    def _let_go(self, node: str, *, keep: int) -> None:
        for worker in self._seats[node][keep:]:
            _end(worker.actor)
        del self._seats[node][keep:]

    def clear(self) -> None:
        """Let every worker go."""
        for node in list(self._seats):
            self._let_go(node, keep=0)
        self._changed({})


class _NotStarted(Exception):  # noqa: N818 - internal to the bench
    """A worker did not come up; the argument is its node."""


async def _is_fit(worker: Worker, addresses: Mapping[str, Address]) -> bool:
    """Whether it answers that it is idle, before its node is gone and within `ANSWER_S`."""
    answer = asyncio.ensure_future(_as_future(worker.actor.execute.remote(_is_idle)))
    gone = asyncio.ensure_future(until_gone(worker.metadata.node_id, addresses))
    try:
        await asyncio.wait((answer, gone), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        return answer.done() and bool(answer.result())
    except ray.exceptions.RayError:
        return False
    finally:
        gone.cancel()
        answer.cancel()


def _as_future(ref: Any) -> asyncio.Future[Any]:
    return asyncio.wrap_future(ref.future())


def _end(actor: Any) -> None:
    ray.kill(actor)


def _is_idle() -> bool:
    """Runs in a worker: its last train function has returned, or does so within a moment, or it never had one."""
    try:
        runner = get_train_context().execution_context.training_thread_runner
    except RuntimeError:
        return True
    deadline_s = time.monotonic() + LEAVE_S
    while runner.is_running() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not runner.is_running()


def _get_ready(train_fn_ref: Any) -> None:
    """Runs in a worker: its train function, and what that needs, is there before anyone waits for it. The first worker
    of a node fetches the function from another node's object store, which takes Ray half a second; what writes and
    reads the ranks' messages takes 0.05 CPU-seconds to build, for which a forked rank would wait."""
    import orchestrator.adapters.ray_train.train_fn  # noqa: F401
    from jobs.train import messages, wire
    from jobs.train.config import StartRequest

    wire.prepare(StartRequest, *messages.KINDS)
    train_fn_ref.get()
