"""The engine beside the event loop, as a thread or as a process: the same replica, load and core.

    python -m tests.benchmarks.engine_beside [--quick] [--seconds N] [--repeats N]

16 batch rows of 64 + 64 tokens are always asked, and 4 keystrokes of 64 + 8 tokens a second; each token's event is
turned into the JSON of a streamed chunk on the event loop. Everything on one core, then on two. The process variant
sends requests and events through a pipe, several events at once, as a thread's mailbox does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from serving.config import policy_config
from serving.engine.calibrate import calibrate
from serving.engine.generation import Answer, Delta, Event, Finished, Generation
from serving.engine.protocol import Sampling
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.policy import Tier, TierScheduler
from tests.benchmarks.harness import print_result, read_options, say
from tests.benchmarks.serving import SEED, _model
from tests.benchmarks.serving_ours import endpoint

Submit = Callable[[Generation], Answer]
_GREEDY = Sampling(temperature=0.0)
_BACKLOG = 16


def main() -> None:
    """Take turns and print the result."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--seconds", type=float, default=20.0)
    extra.add_argument("--repeats", type=int, default=3)
    options = read_options(__doc__ or "", extra=extra)
    seconds, repeats = (4.0, 1) if options.quick else (options.rest.seconds, options.rest.repeats)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = _model(Path(work, "model"))
        for cores in ((0,), (0, 1)):
            found: dict[str, list[dict[str, float]]] = {"thread": [], "process": []}
            for repeat in range(repeats):
                for kind in sorted(found, reverse=repeat % 2 == 0):
                    found[kind].append(_measure(kind, folder, set(cores), seconds))
                    say(f"{len(cores)} core(s) {kind}: {found[kind][-1]}")
            rows += [_row(kind, len(cores), runs) for kind, runs in found.items()]
    print_result({"benchmark": "engine_beside", "rows": rows, "seconds": seconds, "repeats": repeats, "seed": SEED},
                 quick=options.quick)  # fmt: skip


def _row(kind: str, num_cores: int, runs: list[dict[str, float]]) -> dict[str, Any]:
    figures = {name: median(run[name] for run in runs) for name in runs[0]}
    ranges = {name: [min(run[name] for run in runs), max(run[name] for run in runs)] for name in runs[0]}
    return {"engine": kind, "cores": num_cores, **figures, "ranges": ranges}


def _measure(kind: str, folder: Path, cores: set[int], seconds: float) -> dict[str, float]:
    """In a process of its own, so that no run inherits another's threads."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_run, args=(kind, folder, cores, seconds, theirs))
    process.start()
    figures: dict[str, float] = mine.recv()
    process.join()
    return figures


def _run(kind: str, folder: Path, cores: set[int], seconds: float, out: Connection) -> None:
    os.sched_setaffinity(0, cores)
    out.send(asyncio.run(_drive(kind, folder, seconds)))


async def _drive(kind: str, folder: Path, seconds: float) -> dict[str, float]:
    beside = _thread(folder) if kind == "thread" else _process(folder)
    async with beside as submit:
        load = _Load(submit, seconds)
        return await load.run()


class _Load:
    """The clients, on the event loop, and the JSON that their answers cost."""

    def __init__(self, submit: Submit, seconds: float) -> None:
        self._submit = submit
        self._end_s = time.monotonic() + seconds
        self._start_s = time.monotonic()
        self._seconds = seconds
        self._batch_tokens = 0
        self._latencies_s: list[float] = []
        self._rng = random.Random(SEED)
        self._count = 0

    async def run(self) -> dict[str, float]:
        cpu_s = time.process_time()
        await asyncio.gather(self._keystrokes(), *(self._backlog() for _ in range(_BACKLOG)))
        ordered = sorted(self._latencies_s)
        return {
            "keystroke_p50_s": ordered[len(ordered) // 2],
            "keystroke_p99_s": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
            "batch_tokens_per_s": self._batch_tokens / self._seconds,
            "event_loop_process_cpu_share": (time.process_time() - cpu_s) / self._seconds,
        }

    async def _keystrokes(self) -> None:
        at_s, jobs = self._start_s, []
        while (at_s := at_s + self._rng.expovariate(4.0)) < self._end_s - 1:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            jobs.append(asyncio.create_task(self._keystroke(at_s)))
        await asyncio.gather(*jobs)

    async def _keystroke(self, at_s: float) -> None:
        await self._read(Tier.KEYSTROKE, 8, at_s)
        self._latencies_s.append(time.monotonic() - at_s)

    async def _backlog(self) -> None:
        while time.monotonic() < self._end_s:
            made = await self._read(Tier.BATCH, 64, time.monotonic())
            self._batch_tokens += made if time.monotonic() < self._end_s else 0

    async def _read(self, tier: Tier, tokens: int, at_s: float) -> int:
        self._count += 1
        prompt = tuple(self._rng.choices(range(97, 123), k=64))
        # Deadlines far away: both variants admit everything, and nothing but speed differs.
        asked = Generation(id=f"{self._count}", tier=tier, prompt=prompt, max_tokens=tokens, sampling=_GREEDY,
                           arrival_s=at_s, deadline_s=at_s + (2.0 if tier.is_online else 86_400.0))  # fmt: skip
        answer = self._submit(asked)
        while isinstance(event := await answer.next(), Delta):
            json.dumps({"choices": [{"index": 0, "text": event.text, "finish_reason": None}], "model": "bench"})
        return event.num_tokens


@contextlib.asynccontextmanager
async def _thread(folder: Path) -> AsyncIterator[Submit]:
    replica = _replica(folder)
    replica.start()
    try:
        yield replica.submit
    finally:
        await asyncio.to_thread(replica.close)


@contextlib.asynccontextmanager
async def _process(folder: Path) -> AsyncIterator[Submit]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    child = context.Process(target=_engine_process, args=(folder, theirs))
    child.start()
    await asyncio.to_thread(mine.recv)  # it is ready
    answers: dict[str, Answer] = {}

    def submit(generation: Generation) -> Answer:
        answer = answers[generation.id] = Answer(generation, lambda _: None)
        mine.send(generation)
        return answer

    def arrived() -> None:
        while mine.poll():
            for request_id, event in mine.recv():
                answers[request_id].deliver(event)
                if isinstance(event, Finished):
                    del answers[request_id]

    asyncio.get_running_loop().add_reader(mine.fileno(), arrived)
    try:
        yield submit
    finally:
        asyncio.get_running_loop().remove_reader(mine.fileno())
        mine.send(None)
        child.join()


def _engine_process(folder: Path, pipe: Connection) -> None:
    asyncio.run(_serve_pipe(_replica(folder), pipe))


async def _serve_pipe(replica: Replica, pipe: Connection) -> None:
    """Requests from the pipe to the engine's thread, and all events of one turn of the loop back together."""
    loop, stop, outbox = asyncio.get_running_loop(), asyncio.Event(), list[tuple[str, Event]]()

    def flush() -> None:
        pipe.send(outbox[:])
        outbox.clear()

    def deliver(request_id: str, event: Event) -> None:
        if not outbox:
            loop.call_soon(flush)
        outbox.append((request_id, event))

    def take(generation: Generation) -> None:
        answer = replica.submit(generation)
        answer.deliver = lambda event: deliver(generation.id, event)  # type: ignore[method-assign]

    def read() -> None:
        while (generation := pipe.recv()) is not None:
            loop.call_soon_threadsafe(take, generation)
        loop.call_soon_threadsafe(stop.set)

    replica.start()
    pipe.send("ready")
    threading.Thread(target=read, daemon=True).start()
    await stop.wait()
    replica.close()


def _replica(folder: Path) -> Replica:
    import torch

    from serving.engine.torch_engine import load_engine

    torch.set_num_threads(1)
    engine = load_engine(folder, num_slots=32, max_context=512, precision="fp32")
    config = policy_config(endpoint(slots=32, precision="fp32"))
    model = calibrate(engine, chunk_tokens=64, budget_s=2.0)
    return Replica(engine, TierScheduler(config, num_slots=32, model=model), ByteTokenizer())


if __name__ == "__main__":
    main()
