"""One attempt on one rank: open it, run the loop, leave together, say how it ended."""

from __future__ import annotations

import time

from jobs.models.task import Task
from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.groups import leave_group
from jobs.train.loop import Outcome
from jobs.train.messages import Finished, Phase, Stopped
from jobs.train.opening import open_attempt
from jobs.train.pace import pace_meter


def run_rank(request: StartRequest, channel: Channel) -> None:
    """Train until the end or the stop, and report it. Raises: whatever went wrong."""
    job = request.job
    attempt = open_attempt(request, channel)
    zero_stage = 1 if job.strict else job.zero_stage
    attempt.engine.pace = pace_meter(attempt.device, zero_stage, request.world_size, channel.send)
    outcome = attempt.train(
        attempt.start_step,
        job.steps,
        # Snapshots are for keepers; without one, storage gets a state when a checkpoint is due.
        snapshot_every_steps=job.snapshot_every_steps if job.keeper_socket else 0,
        # Keepers write checkpoints by themselves, from the snapshots they have.
        checkpoint_every_s=lambda: 0.0 if request.rank or job.keeper_socket else job.checkpoint_every_s,
    )
    leave_group(attempt.groups)
    reporter = attempt.reporter
    if channel.stop_reason is not None:
        channel.send(Phase("stop", max(0.0, reporter.last_step_ended_s - channel.stop_asked_s)))
    channel.send(Phase("snapshot", time.monotonic() - reporter.last_step_ended_s))
    channel.send(_farewell(outcome, reporter.last_loss, attempt.task, channel))


def _farewell(outcome: Outcome, last_loss: float, task: Task, channel: Channel) -> Finished | Stopped:
    if outcome.finished:
        return Finished(outcome.step, {**task.metrics(last_loss), "train_loss": last_loss})
    return Stopped(outcome.step, channel.stop_reason or "another rank was asked to stop")
