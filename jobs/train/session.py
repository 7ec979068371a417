"""One attempt on one rank: put the parts together, time each, run the loop, say how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from jobs.data.manifest import read_manifest
from jobs.models.task import SampleSource, Task, load_task
from jobs.train import messages
from jobs.train.agree import Rhythm
from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.engine import Engine, ShardedEngine, device_name, open_device
from jobs.train.groups import StepSum, join_group, leave_group
from jobs.train.loop import Loop, Outcome, Saving
from jobs.train.messages import Finished, Part, Phase, Stopped
from jobs.train.not_finite import NotFiniteHandler
from jobs.train.pace import pace_meter
from jobs.train.passes import Share
from jobs.train.places import NoSaving, Places, places_of
from jobs.train.prefetch import Prefetcher
from jobs.train.rank_metrics import StepCost, device_peak_flops_per_s
from jobs.train.report import Reporter
from jobs.train.restoring import Restored, restore
from jobs.train.sample_ledger import SampleLedger
from jobs.train.samples import SampleStream
from jobs.train.saving import RunFacts, Saver
from jobs.train.schedule import learning_rate
from jobs.train.state.deepspeed_shards import view_of
from jobs.train.strict import StrictEngine
from jobs.train.tree import barrier
from jobs.train.wishlist import Wishlist
from orchestrator.policy.batch_plan import BatchPlan


def run_rank(request: StartRequest, channel: Channel) -> None:
    """Train until the end or the stop, and report it. Raises: whatever went wrong."""
    job = request.job
    # 1. what is learned from what
    task = load_task(job.task, job.args)
    dataset_hash = read_manifest(Path(job.dataset_dir)).hash
    samples = task.open_data(Path(job.dataset_dir), "train")
    stream = SampleStream(samples.num_samples, dataset_hash, job.seed, job.global_batch_size)
    # 2. the others
    with _timed("process_groups", channel):
        device = open_device(os.environ["DS_ACCELERATOR"], request.local_rank)
        groups = join_group(request, device)
    # 3. the model, from the seed and then from saved state
    with _timed("engine", channel):
        engine: Engine = StrictEngine(request, task, device) if job.strict else ShardedEngine(request, task, device)
    with _timed("state", channel):
        places = places_of(request, groups, channel)
        restored = restore(places.source, engine, job, dataset_hash) if job.restore else None
    if restored is not None:
        _say_restored(restored, channel)
    # 4. steps
    engine.pace = pace_meter(device, 1 if job.strict else job.zero_stage, request.world_size, channel.send)
    replicated = restored.manifest.replicated if restored else {}
    start_step = restored.manifest.step if restored else job.start_step
    saver = _saver(request, dataset_hash, engine, places, channel)
    reporter = Reporter(
        rank=request.rank,
        stream=stream,
        cost=_cost(request, task, device),
        ledger=SampleLedger.from_json(replicated["ledger"]) if restored else SampleLedger(next_step=start_step),
        on_nan=job.on_nan,
        send=channel.send,
    )

    def roll_back() -> int:
        barrier(groups.small)  # by now rank 0 has committed what the others wrote
        return restore(places.source, engine, job, dataset_hash).manifest.step

    prefetcher = Prefetcher(lambda: _share(request, task, samples, stream).passes(start_step, job.steps))
    loop = Loop(
        # Snapshots are for keepers; without one, storage gets a state when a checkpoint is due.
        rhythm=Rhythm(steps=job.steps, snapshot_every_steps=job.snapshot_every_steps if job.keeper_socket else 0),
        start_step=start_step,
        learning_rate=lambda step_index: learning_rate(job.optimizer, step_index, job.steps),
        model=engine,
        passes=prefetcher,
        saver=saver,
        reporter=reporter,
        not_finite=NotFiniteHandler(
            job.on_nan,
            passed_over=[(int(first), int(last)) for first, last in replicated.get("passed_over", [])],
            roll_back=roll_back,
            report=channel.send if request.rank == 0 else lambda message: None,
        ),
        # Keepers write checkpoints by themselves, from the snapshots they have.
        wishes=Wishlist(channel, 0.0 if request.rank or job.keeper_socket else job.checkpoint_every_s),
        begin_sum=lambda vector: StepSum(vector, groups),
        send_phase=channel.send,
        after_step=engine.pace.step_ended,
    )
    try:
        outcome = loop.run()
    finally:
        prefetcher.close()
    # 5. leave together
    saver.finish()
    leave_group(groups)
    if channel.stop_reason is not None:
        channel.send(Phase("stop", max(0.0, reporter.last_step_ended_s - channel.stop_asked_s)))
    channel.send(Phase("snapshot", time.monotonic() - reporter.last_step_ended_s))
    channel.send(_farewell(outcome, reporter.last_loss, task, channel))


def _saver(request: StartRequest, dataset_hash: str, engine: Engine, places: Places, channel: Channel) -> Saving:
    if places.sink is None:
        return NoSaving()
    facts = RunFacts.of(request, dataset_hash)
    return Saver(facts, lambda: view_of(engine.deepspeed), places.sink, channel.send)


def _share(request: StartRequest, task: Task, samples: SampleSource, stream: SampleStream) -> Share:
    return Share(
        task=task,
        source=samples,
        stream=stream,
        plan=BatchPlan(request.job.global_batch_size, request.job.micro_batch_size),
        rank=request.rank,
        world_size=request.world_size,
    )


def _cost(request: StartRequest, task: Task, device: torch.device) -> StepCost:
    return StepCost(
        samples=request.job.global_batch_size,
        tokens_per_sample=task.tokens_per_sample,
        flops_per_sample=task.flops_per_sample(),
        world_size=request.world_size,
        peak_flops_per_s=device_peak_flops_per_s(device_name(device)),
    )


def _say_restored(restored: Restored, channel: Channel) -> None:
    channel.send(messages.Restored(restored.manifest.step, restored.source, restored.read_bytes, restored.detail))


def _farewell(outcome: Outcome, last_loss: float, task: Task, channel: Channel) -> Finished | Stopped:
    if outcome.finished:
        return Finished(outcome.step, {**task.metrics(last_loss), "train_loss": last_loss})
    return Stopped(outcome.step, channel.stop_reason or "another rank was asked to stop")


@contextmanager
def _timed(part: Part, channel: Channel) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    channel.send(Phase(part, time.monotonic() - began_s))
