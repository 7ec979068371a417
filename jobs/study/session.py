"""One attempt of a trial on one rank: train to a report, save, be measured, ask, and so on until the end or a no.

Opened as a job's attempt is (`jobs.train.opening`); only the way from step to step is cut into legs. The learning rate
and the samples follow the whole job's steps, so a trial that stops and goes on, here or elsewhere, is the same run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from jobs.models.task import SampleSource
from jobs.study.line import Line, TrialFacts
from jobs.study.measure import measure, open_validation
from jobs.study.on_the_way import OnTheWay
from jobs.train.channel import Channel
from jobs.train.config import StartRequest
from jobs.train.groups import leave_group, share_text
from jobs.train.loop import Outcome
from jobs.train.messages import Finished, Stopped
from jobs.train.opening import Attempt, open_attempt
from jobs.train.state.open_storage import open_storage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What a trial has beside its attempt."""

    attempt: Attempt
    facts: TrialFacts
    states: OnTheWay
    validation: SampleSource | None


def run_trial(request: StartRequest, channel: Channel) -> None:
    """Train from report to report until the end, the stop or a no. Raises: whatever went wrong."""
    facts, job = TrialFacts.from_environment(), request.job
    states = OnTheWay(job.run_id, open_storage(job.storage_url), frozenset(facts.reports), request.rank)
    attempt = open_attempt(request, channel, through=states.through)
    trial = _Trial(
        attempt=attempt,
        facts=facts,
        states=states,
        validation=open_validation(attempt.task, Path(request.job.dataset_dir)),
    )
    last = _run_legs(trial)
    attempt.saver.finish()
    leave_group(attempt.groups)
    channel.send(last)


def _run_legs(trial: _Trial) -> Finished | Stopped:
    """Legs until the last one; what to say of it."""
    attempt = trial.attempt
    line = Line(trial.facts.socket_path) if attempt.request.rank == 0 else None
    try:
        step = attempt.start_step
        for report in trial.facts.reports:
            if report < step:
                continue
            if report > step:  # else: saved there by an attempt whose report was not heard
                outcome = _leg(trial, step, report)
                step = outcome.step
                if not outcome.finished:
                    return Stopped(step, attempt.channel.stop_reason or "another rank was asked to stop")
            if not _ask(attempt, line, step, _metrics(trial)):
                return Stopped(step, "told to leave")
        return Finished(step, {})
    finally:
        if line is not None:
            line.close()


def _leg(trial: _Trial, start_step: int, end_step: int) -> Outcome:
    """Train up to `end_step` and save there, and on the way where that costs little."""
    request = trial.attempt.request
    most_s = 0.0 if request.rank else request.job.checkpoint_every_s
    return trial.attempt.train(
        start_step, end_step, snapshot_every_steps=0, checkpoint_every_s=lambda: trial.states.every_s(most_s)
    )


def _metrics(trial: _Trial) -> dict[str, float]:
    """The task's figures on the validation split (without one: of the last step), and the last step's own loss."""
    attempt = trial.attempt
    train_loss = attempt.reporter.last_loss
    if trial.validation is None:
        return {**attempt.task.metrics(train_loss), "train_loss": train_loss}
    loss = measure(
        attempt.engine.deepspeed,
        attempt.task,
        trial.validation,
        attempt.device,
        samples=trial.facts.evaluation_samples,
        rank=attempt.request.rank,
        world_size=attempt.request.world_size,
        group=attempt.groups.small,
    )
    return {**attempt.task.metrics(loss), "train_loss": train_loss}


def _ask(attempt: Attempt, line: Line | None, step: int, metrics: dict[str, float]) -> bool:
    """Whether to go on; rank 0 asks, all get the same answer."""
    answer = ("1" if line.report(step, metrics) else "0") if line is not None else ""
    goes_on = share_text(answer, attempt.request.rank, attempt.groups.small) == "1"
    attempt.reporter.last_step_ended_s = time.monotonic()  # the wait for the answer is no part of the next step
    return goes_on
