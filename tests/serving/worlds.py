"""Replicas for tests: echo or a tiny random GPT, with a step model that admits everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import torch

from jobs.models.load import ModelConfig, save_model
from jobs.models.task import load_task
from serving.engine.echo import EchoEngine
from serving.engine.generation import Answer, Delta, Finished, Generation
from serving.engine.protocol import Sampling, TokenEngine
from serving.engine.replica import Replica
from serving.engine.text import ByteTokenizer
from serving.engine.torch_engine import TorchEngine, load_engine
from serving.policy import (
    Admitted,
    Idle,
    PolicyConfig,
    Refused,
    Request,
    StepPlan,
    Tier,
    TierScheduler,
    TierTarget,
    untrained,
)

TINY = {"layers": 2, "d_model": 32, "heads": 2, "seq_len": 96}
GREEDY = Sampling(temperature=0.0)
# Deadlines beyond what any hiccup of the machine can predict for millions of tokens, no step caps: order and slots are
# the scheduler's, speed is nobody's.
PATIENT = PolicyConfig(
    targets={tier: TierTarget(latency_s=1e9) for tier in Tier}, prefill_chunk_tokens=8, min_chunk_tokens=2
)


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A registered-looking folder with a random GPT of 27k parameters."""
    task = "jobs.models.gpt:task"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_task(task, TINY).build_model()
        with torch.no_grad():  # spread the scores, or every answer is the same byte
            for parameter in model.parameters():
                parameter.mul_(3.0)
    return save_model(model, ModelConfig(task=task, args=TINY), folder)


def tiny_engine(folder: Path, *, num_slots: int = 4) -> TorchEngine:
    return load_engine(folder, num_slots=num_slots, max_context=None, precision="fp32")


class SlowToDecide(TierScheduler):
    """A scheduler whose decisions take 4 ms, plans 1 ms, of a clock of its own. `num_decided` counts them."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(PATIENT, num_slots=num_slots, model=untrained())
        self.now_s = 0.0
        self.num_decided = 0

    def clock(self) -> float:
        return self.now_s

    def submit(self, request: Request, *, now_s: float) -> Admitted | Refused:
        self.now_s += 0.004
        self.num_decided += 1
        return super().submit(request, now_s=now_s)

    def plan(self, *, now_s: float) -> StepPlan | Idle:
        self.now_s += 0.001
        return super().plan(now_s=now_s)


def make_replica(engine: TokenEngine | None = None, config: PolicyConfig = PATIENT) -> Replica:
    engine = engine or EchoEngine()
    scheduler = TierScheduler(config, num_slots=engine.num_slots, model=untrained())
    return Replica(engine, scheduler, ByteTokenizer())


@contextlib.asynccontextmanager
async def running(engine: TokenEngine | None = None, config: PolicyConfig = PATIENT) -> AsyncIterator[Replica]:
    async with started(make_replica(engine, config)) as replica:
        yield replica


@contextlib.asynccontextmanager
async def started(replica: Replica) -> AsyncIterator[Replica]:
    replica.start()
    try:
        yield replica
    finally:
        await asyncio.to_thread(replica.close)


def generation(
    request_id: str,
    prompt: str = "abc",
    *,
    tier: Tier = Tier.INTERACTIVE,
    max_tokens: int = 6,
    sampling: Sampling = GREEDY,
    stop: Sequence[str] = (),
    session: str | None = None,
    tenant: str = "",
    embed: bool = False,
) -> Generation:
    return Generation(
        id=request_id, tier=tier, prompt=tuple(prompt.encode()), max_tokens=max_tokens, sampling=sampling,
        stop=tuple(stop), session=session, tenant=tenant, embed=embed, arrival_s=0.0, deadline_s=1e9,
    )  # fmt: skip


async def read_all(answer: Answer) -> tuple[str, Finished]:
    pieces: list[str] = []
    while isinstance(event := await answer.next(), Delta):
        pieces.append(event.text)
    return "".join(pieces), event
