"""One attempt of a trial on one rank: train to a report, save, be measured, ask, and so on until the end or a no.

Built from the parts of a job's attempt (`jobs.train.session`); only the way from step to step is cut into legs. The
learning rate and the samples follow the whole job's steps, so a trial that stops and goes on, here or elsewhere, is the
same run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from jobs.data.manifest import read_manifest
from jobs.models.task import SampleSource, Task, load_task
from jobs.study.line import Line, TrialFacts
from jobs.study.measure import measure, open_validation
from jobs.train import messages
from jobs.train.agree import Rhythm
from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.engine import Engine, ShardedEngine, device_name, open_device
from jobs.train.groups import Groups, StepSum, join_group, leave_group, share_text
from jobs.train.loop import Loop, Outcome, Saving
from jobs.train.messages import Finished, Part, Phase, Stopped
from jobs.train.not_finite import NotFiniteHandler
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """The parts that last from leg to leg."""

    request: StartRequest
    facts: TrialFacts
    channel: Channel
    task: Task
    samples: SampleSource
    validation: SampleSource | None
    stream: SampleStream
    groups: Groups
    engine: Engine
    device: torch.device
    saver: Saving
    reporter: Reporter
    not_finite: NotFiniteHandler


def run_trial(request: StartRequest, channel: Channel) -> None:
    """Train from report to report until the end, the stop or a no. Raises: whatever went wrong."""
    job, facts = request.job, TrialFacts.from_environment()
    task = load_task(job.task, job.args)
    dataset_hash = read_manifest(Path(job.dataset_dir)).hash
    samples = task.open_data(Path(job.dataset_dir), "train")
    stream = SampleStream(samples.num_samples, dataset_hash, job.seed, job.global_batch_size)
    with _timed("process_groups", channel):
        device = open_device(os.environ["DS_ACCELERATOR"], request.local_rank)
        groups = join_group(request, device)
    with _timed("engine", channel):
        engine: Engine = StrictEngine(request, task, device) if job.strict else ShardedEngine(request, task, device)
    with _timed("state", channel):
        places = places_of(request, groups, channel)
        restored = restore(places.source, engine, job, dataset_hash) if job.restore else None
    if restored is not None:
        channel.send(messages.Restored(restored.manifest.step, restored.source, restored.read_bytes, restored.detail))
    start_step = restored.manifest.step if restored else 0
    attempt = _Attempt(
        request=request,
        facts=facts,
        channel=channel,
        task=task,
        samples=samples,
        validation=open_validation(task, Path(job.dataset_dir)),
        stream=stream,
        groups=groups,
        engine=engine,
        device=device,
        saver=_saver(request, dataset_hash, engine, places, channel),
        reporter=_reporter(request, task, stream, device, restored, channel),
        not_finite=_not_finite(request, engine, places, groups, restored, dataset_hash, channel),
    )
    last = _run_legs(attempt, start_step)
    attempt.saver.finish()
    leave_group(groups)
    channel.send(last)


def _run_legs(attempt: _Attempt, start_step: int) -> Finished | Stopped:
    """Legs until the last one; what to say of it."""
    is_first = attempt.request.rank == 0
    line = Line(attempt.facts.socket_path) if is_first else None
    try:
        step = start_step
        for report in attempt.facts.reports:
            if report < step:
                continue
            if report > step:  # else: saved there by an attempt whose report was not heard
                outcome = _leg(attempt, step, report)
                step = outcome.step
                if not outcome.finished:
                    return Stopped(step, attempt.channel.stop_reason or "another rank was asked to stop")
            if not _ask(attempt, line, step, _metrics(attempt)):
                return Stopped(step, "told to leave")
        return Finished(step, {})
    finally:
        if line is not None:
            line.close()


def _leg(attempt: _Attempt, start_step: int, end_step: int) -> Outcome:
    """Train up to `end_step` and save there."""
    job, request, channel = attempt.request.job, attempt.request, attempt.channel
    share = Share(
        task=attempt.task,
        source=attempt.samples,
        stream=attempt.stream,
        plan=BatchPlan(job.global_batch_size, job.micro_batch_size),
        rank=request.rank,
        world_size=request.world_size,
    )
    prefetcher = Prefetcher(lambda: share.passes(start_step, end_step))
    loop = Loop(
        rhythm=Rhythm(steps=end_step, snapshot_every_steps=0),
        start_step=start_step,
        learning_rate=lambda step_index: learning_rate(job.optimizer, step_index, job.steps),
        model=attempt.engine,
        passes=prefetcher,
        saver=attempt.saver,
        reporter=attempt.reporter,
        not_finite=attempt.not_finite,
        wishes=Wishlist(channel, 0.0 if request.rank else job.checkpoint_every_s),
        begin_sum=lambda vector: StepSum(vector, attempt.groups),
        send_phase=channel.send,
    )
    try:
        outcome = loop.run()
    finally:
        prefetcher.close()
    attempt.saver.finish()
    return outcome


def _metrics(attempt: _Attempt) -> dict[str, float]:
    """The task's figures on the validation split (without one: of the last step), and the last step's own loss."""
    train_loss = attempt.reporter.last_loss
    if attempt.validation is None:
        return {**attempt.task.metrics(train_loss), "train_loss": train_loss}
    loss = measure(
        attempt.engine.deepspeed,
        attempt.task,
        attempt.validation,
        attempt.device,
        samples=attempt.facts.evaluation_samples,
        rank=attempt.request.rank,
        world_size=attempt.request.world_size,
        group=attempt.groups.small,
    )
    return {**attempt.task.metrics(loss), "train_loss": train_loss}


def _ask(attempt: _Attempt, line: Line | None, step: int, metrics: dict[str, float]) -> bool:
    """Whether to go on; rank 0 asks, all get the same answer."""
    answer = ("1" if line.report(step, metrics) else "0") if line is not None else ""
    goes_on = share_text(answer, attempt.request.rank, attempt.groups.small) == "1"
    attempt.reporter.last_step_ended_s = time.monotonic()  # the wait for the answer is no part of the next step
    return goes_on


def _saver(request: StartRequest, dataset_hash: str, engine: Engine, places: Places, channel: Channel) -> Saving:
    if places.sink is None:
        return NoSaving()
    facts = RunFacts.of(request, dataset_hash)
    return Saver(facts, lambda: view_of(engine.deepspeed), places.sink, channel.send)


def _reporter(
    request: StartRequest,
    task: Task,
    stream: SampleStream,
    device: torch.device,
    restored: Restored | None,
    channel: Channel,
) -> Reporter:
    job = request.job
    cost = StepCost(
        samples=job.global_batch_size,
        tokens_per_sample=task.tokens_per_sample,
        flops_per_sample=task.flops_per_sample(),
        world_size=request.world_size,
        peak_flops_per_s=device_peak_flops_per_s(device_name(device)),
    )
    replicated = restored.manifest.replicated if restored else {}
    ledger = SampleLedger.from_json(replicated["ledger"]) if restored else SampleLedger(next_step=0)
    return Reporter(rank=request.rank, stream=stream, cost=cost, ledger=ledger, on_nan=job.on_nan, send=channel.send)


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
        barrier(groups.small)
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
