"""The loss of a job that is resized twice against the same job at one size; real DeepSpeed ranks, no cluster."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from jobs.data import ensure_dataset
from jobs.train import messages
from jobs.train.config import RankJob, RestoreFrom
from jobs.train.forkserver import ForkServer, ForkServerStarter
from jobs.train.starters import RankStarter
from tests.train.ranks import make_job, run, started

STEM_S = 120.0


def resized_against_fixed(zero_stage: int, precision: str, *, steps: int, sizes: tuple[int, ...]) -> float:
    """The largest relative difference of the loss at any step. The resized run changes its size at equal parts of
    `steps`, each time through a checkpoint; dropout is on."""
    with tempfile.TemporaryDirectory(prefix="tide-loss-") as folder:
        dataset = ensure_dataset("python-stdlib@latest", Path(folder))
        server = ForkServer(Path(folder), preload=(), env={"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"})
        try:
            server.warm(STEM_S)
            starter = ForkServerStarter(server.socket_path)
            job = make_job(dataset, zero_stage=zero_stage, precision=precision, steps=steps)
            fixed = run(starter, job, sizes[0]).losses
            resized = _resized(starter, replace(job, storage_url=f"file://{folder}/store"), sizes)
        finally:
            server.close()
    assert len(resized) == len(fixed) == steps
    return max(abs(a - b) / abs(b) for a, b in zip(resized, fixed, strict=True))


def _resized(starter: RankStarter, job: RankJob, sizes: tuple[int, ...]) -> list[float]:
    losses: list[float] = []
    for attempt, size in enumerate(sizes):
        done = len(losses)
        restore = RestoreFrom(step=done, keepers=False) if done else None
        job = replace(job, attempt=attempt, start_step=done, restore=restore)
        enough = job.steps * (attempt + 1) // len(sizes)
        with started(starter, job, size) as group:
            if attempt < len(sizes) - 1:
                group.listen(until=lambda group, enough=enough, done=done: done + len(group.losses) >= enough)
                group.handles[-1].send(messages.Stop("resize"))
            group.listen()
            failures = [message for said in group.said for message in said if isinstance(message, messages.Failed)]
            assert not failures, failures[0].traceback
            losses += group.losses
    return losses
