"""The kind TrainJob: one training run that may change its size while it goes."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.base import Document, SpecModel, repeated
from orchestrator.spec.fields import Count, Deadline, Flag, Free, Many, Name, OneOf, PositiveDuration, TaskPath, whole
from orchestrator.spec.job_parts import (
    Batch,
    Budget,
    Checkpoint,
    Data,
    DeepSpeed,
    Optimizer,
    Register,
    Retries,
    Runtime,
    Schedule,
    Workers,
)
from orchestrator.spec.notify import Hook, hook_findings
from orchestrator.spec.problems import Code, Finding, Path

# Every class has ABCMeta.register; an instance's own `register` hides nothing that a spec would use.
warnings.filterwarnings("ignore", message='Field name "register" in "TrainJobSpec" shadows', category=UserWarning)


class TrainJobSpec(SpecModel):
    """What to train, on what, with how many workers, until when."""

    queue: Name = "default"
    """The queue that admits it."""
    priority: Annotated[int, whole(0, 1000)] = 50
    """Higher goes first within a queue."""
    workers: Workers
    """How many, and what each needs."""
    window: Name | None = None
    """A window named in the Cluster; none = any time."""
    deadline: Deadline | None = None
    """After submission, or at a time."""
    after: Many[Name] = ()
    """Jobs that must have succeeded first."""
    schedule: Schedule | None = None
    """Starts the job by itself; none = once, now."""
    runtime: Runtime = Field(default_factory=Runtime)
    """Code and environment of the workers."""
    budget: Budget | None = None
    """The most it may spend."""
    task: TaskPath
    """The factory that builds model, loss and data."""
    args: Mapping[str, Free] = Field(default_factory=dict)
    """What the factory gets."""
    data: Data
    """What is trained on."""
    batch: Batch
    """Samples per step and per pass."""
    steps: Count
    """Optimizer steps in all."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """How parameters move."""
    deepspeed: DeepSpeed = Field(default_factory=DeepSpeed)
    """How state is sharded."""
    strict: Flag = False
    """Bitwise equal results at every world size; ZeRO 1 and small models only."""
    on_nan: Annotated[Literal["stop", "skip", "rollback"], OneOf()] = "stop"
    """At a loss that is not a number: end the job, leave the step out, or return to the last snapshot."""
    hang_timeout: PositiveDuration = 1800.0
    """A rank that makes no step for so long hangs: the group is restarted."""
    retries: Retries = Field(default_factory=Retries)
    """How often a failed start is tried again."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """How state is kept."""
    register: Register | None = None
    """Makes the result a version of a registered model."""
    notify: Many[Hook] = ()
    """Addresses that are called when it has ended."""

    def cross_check(self) -> Iterator[Finding]:
        yield from repeated(self.after, "after", key="")
        yield from hook_findings(self.notify)
        if self.strict and self.deepspeed.zero_stage != 1:
            what = f"needs ZeRO stage 1, and deepspeed.zero_stage is {self.deepspeed.zero_stage}"
            want = "equal bits at every size need our own sum of gradients"
            yield Finding(("strict",), Code.CONFLICT, what, want, "Set deepspeed.zero_stage: 1, or strict: false")
        if self.strict and self.deepspeed.precision != "fp32":
            what = f"needs precision fp32, and deepspeed.precision is {self.deepspeed.precision}"
            want = "equal bits at every size need our own sum of gradients, which adds in fp32"
            yield Finding(("strict",), Code.CONFLICT, what, want, "Set deepspeed.precision: fp32, or strict: false")
        if self.schedule and isinstance(self.deadline, dt.datetime):
            want = "a job that starts again and again needs one after each start, such as 8h"
            yield Finding(
                ("deadline",), Code.CONFLICT, "is one time, and the job has a schedule", want, "Write a duration"
            )
        if self.optimizer.warmup_steps > self.steps:
            what = f"{self.optimizer.warmup_steps} is above steps ({self.steps})"
            want = "the rate would never reach lr"
            yield Finding(("optimizer", "warmup_steps"), Code.MIN_ABOVE_MAX, what, want)


class TrainJob(Document):
    """A training run."""

    kind: Literal["TrainJob"] = "TrainJob"
    """What the document describes."""
    spec: TrainJobSpec
    """What it does."""

    def cross_check(self) -> Iterator[Finding]:
        if self.metadata.name in self.spec.after:
            index = self.spec.after.index(self.metadata.name)
            yield Finding(
                ("spec", "after", index),
                Code.CONFLICT,
                "is the job itself",
                "a job cannot wait for itself",
                "Remove it",
            )

    def time_findings(self, now: dt.datetime) -> Iterator[Finding]:
        yield from past_deadline(self.spec.deadline, now, ("spec", "deadline"))


def past_deadline(deadline: float | dt.datetime | None, now: dt.datetime, at: Path) -> Iterator[Finding]:
    """A finding when a deadline that is an instant has passed."""
    if isinstance(deadline, dt.datetime) and deadline <= now:
        want = f"it must be after {now.isoformat(timespec='seconds')}"
        yield Finding(at, Code.IN_THE_PAST, f"{deadline.isoformat()} has passed", want)
