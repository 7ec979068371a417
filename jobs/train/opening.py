"""How an attempt of a rank begins, whatever it is an attempt of: the parts are put together and each step is timed.

Shared by a job's attempt (`jobs.train.session`) and a trial's (`jobs.study.session`). Refuses to train: which steps are
run, and what happens between them, is theirs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from jobs.data.manifest import read_manifest
from jobs.models.task import Task, load_task
from jobs.train import heap, messages
from jobs.train.agree import Rhythm
from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.engine import Engine, ShardedEngine, device_name, open_device
from jobs.train.groups import Groups, StepSum, join_group
from jobs.train.loop import Loop, Outcome, Saving
from jobs.train.messages import Part, Phase
from jobs.train.not_finite import NotFiniteHandler
from jobs.train.passes import Share
from jobs.train.places import NoSaving, Places, places_of
from jobs.train.prefetch import Prefetcher
from jobs.train.rank_metrics import StepCost, device_peak_flops_per_s
from jobs.train.reading import Reader, open_reader
from jobs.train.report import Reporter
from jobs.train.restoring import Restored, restore
from jobs.train.sample_ledger import SampleLedger
from jobs.train.samples import Stream
from jobs.train.saving import RunFacts, Saver, SnapshotSink
from jobs.train.schedule import learning_rate
from jobs.train.state.deepspeed_shards import view_of
from jobs.train.strict import StrictEngine
from jobs.train.tree import barrier
from jobs.train.wishlist import Wishlist
from orchestrator.policy.batch_plan import BatchPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The parts of one attempt on one rank, ready to train from `start_step`."""

    request: StartRequest
    channel: Channel
    task: Task
    reader: Reader
    stream: Stream
    groups: Groups
    engine: Engine
    device: torch.device
    saver: Saving
    reporter: Reporter
    not_finite: NotFiniteHandler
    start_step: int

    def train(
        self, start_step: int, end_step: int, *, snapshot_every_steps: int, checkpoint_every_s: Callable[[], float]
    ) -> Outcome:
        """Steps `start_step` to `end_step`, or to an agreed stop; a state is saved at the end."""
        request, job = self.request, self.request.job
        share = Share(
            reader=self.reader,
            stream=self.stream,
            plan=BatchPlan(job.global_batch_size, job.micro_batch_size),
            rank=request.rank,
            world_size=request.world_size,
        )
        prefetcher = Prefetcher(lambda: share.passes(start_step, end_step))
        loop = Loop(
            rhythm=Rhythm(steps=end_step, snapshot_every_steps=snapshot_every_steps),
            start_step=start_step,
            learning_rate=lambda step_index: learning_rate(job.optimizer, step_index, job.steps),
            model=self.engine,
            passes=prefetcher,
            saver=self.saver,
            reporter=self.reporter,
            not_finite=self.not_finite,
            wishes=Wishlist(self.channel, checkpoint_every_s),
            begin_sum=lambda vector: StepSum(vector, self.groups),
            send_phase=self.channel.send,
            after_step=self.engine.pace.step_ended,
        )
        try:
            outcome = loop.run()
        finally:
            prefetcher.close()
        self.saver.finish()
        return outcome


def open_attempt(
    request: StartRequest, channel: Channel, *, through: Callable[[SnapshotSink], SnapshotSink] = lambda sink: sink
) -> Attempt:
    """Everything up to the first step; states are saved `through` what it makes of their sink.

    Raises: whatever went wrong.
    """
    job = request.job
    # 1. what is learned from what
    task = load_task(job.task, job.args)
    dataset_hash = read_manifest(Path(job.dataset_dir)).hash
    reader, stream = open_reader(task, task.open_data(Path(job.dataset_dir), "train"), dataset_hash, job)
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
    heap.give_back()  # the whole model, of which this rank keeps a share
    if restored is not None:
        channel.send(messages.Restored(restored.manifest.step, restored.source, restored.read_bytes, restored.detail))
    # 4. who saves, who reports, and what is done about losses that are no numbers
    start_step = restored.manifest.step if restored else job.start_step
    replicated = restored.manifest.replicated if restored else {}
    return Attempt(
        request=request,
        channel=channel,
        task=task,
        reader=reader,
        stream=stream,
        groups=groups,
        engine=engine,
        device=device,
        saver=_saver(request, dataset_hash, engine, places, through, channel),
        reporter=Reporter(
            rank=request.rank,
            stream=stream,
            cost=_cost(request, task, device),
            ledger=SampleLedger.from_json(replicated["ledger"]) if restored else SampleLedger(next_step=start_step),
            on_nan=job.on_nan,
            send=channel.send,
        ),
        not_finite=_not_finite(request, engine, places, groups, restored, dataset_hash, channel),
        start_step=start_step,
    )


def _saver(
    request: StartRequest,
    dataset_hash: str,
    engine: Engine,
    places: Places,
    through: Callable[[SnapshotSink], SnapshotSink],
    channel: Channel,
) -> Saving:
    if places.sink is None:
        return NoSaving()
    facts = RunFacts.of(request, dataset_hash)
    return Saver(facts, lambda: view_of(engine.deepspeed), through(places.sink), channel.send)


def _cost(request: StartRequest, task: Task, device: torch.device) -> StepCost:
    return StepCost(
        samples=request.job.global_batch_size,
        tokens_per_sample=task.tokens_per_sample,
        flops_per_sample=task.flops_per_sample(),
        world_size=request.world_size,
        peak_flops_per_s=device_peak_flops_per_s(device_name(device)),
    )


def _not_finite(
    request: StartRequest,
    engine: Engine,
    places: Places,
    groups: Groups,
    restored: Restored | None,
    dataset_hash: str,
    channel: Channel,
) -> NotFiniteHandler:
    replicated = restored.manifest.replicated if restored else {}

    def roll_back() -> int:
        barrier(groups.small)  # by now rank 0 has committed what the others wrote
        return restore(places.source, engine, request.job, dataset_hash).manifest.step

    return NotFiniteHandler(
        request.job.on_nan,
        passed_over=[(int(first), int(last)) for first, last in replicated.get("passed_over", [])],
        roll_back=roll_back,
        report=channel.send if request.rank == 0 else lambda message: None,
    )


@contextmanager
def _timed(part: Part, channel: Channel) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    channel.send(Phase(part, time.monotonic() - began_s))
