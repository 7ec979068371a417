"""The parts of a TrainJob: workers, schedule, runtime, budget, data, batch, optimizer, DeepSpeed, checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.spec.base import SpecModel, min_above_max, repeated, without_effect
from orchestrator.spec.fields import (
    Count,
    CountOrZero,
    Coupling,
    Cron,
    FilePath,
    Fraction,
    Free,
    Many,
    Money,
    Name,
    NotNegative,
    OneOf,
    Positive,
    PositiveDuration,
    Precision,
    Reference,
    Requirement,
    Seed,
    Size,
    StorageUrl,
    Text,
    Word,
    Zone,
    real,
    whole,
)
from orchestrator.spec.problems import Code, Finding
from orchestrator.spec.scalars import shown

CODE_PREFIX = "code:"
CODE_ID_PATTERN = r"^[0-9a-f]{64}$"
WorkerCount = Annotated[int, whole(1, 100_000)]

# Keys of a DeepSpeed configuration that Tideline derives from the rest of the job: two sources would disagree.
_OWN_DEEPSPEED_KEYS = {
    "train_batch_size": "batch.global_batch_size",
    "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
    "gradient_accumulation_steps": "batch",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "bf16": "deepspeed.precision",
    "fp16": "deepspeed.precision",
    "elasticity": "workers",
}
_SECRET_VALUE = re.compile(r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|(API|SECRET|ACCESS)_KEY|CREDENTIALS)$", re.IGNORECASE)


class Resources(SpecModel):
    """What one worker holds while it runs."""

    CPU: Annotated[float, real(0, above=True)] = 1.0
    """CPU cores."""
    GPU: NotNegative = 0.0
    """GPUs; a part of one below 1, whole ones above."""
    memory: Size | None = None
    """Memory reserved with the cluster; none = not reserved."""
    custom: Mapping[Word, Positive] = Field(default_factory=dict)
    """Resources of the cluster's own names."""

    def cross_check(self) -> Iterator[Finding]:
        if self.GPU > 1 and not self.GPU.is_integer():
            yield Finding(("GPU",), Code.WRONG_VALUE, f"{self.GPU} is not whole", "above 1 it must be a whole number")
        for name in sorted({"CPU", "GPU", "memory"} & set(self.custom)):
            yield Finding(
                ("custom", name), Code.CONFLICT, "has a key of its own", f"write resources.{name}", "Remove it here"
            )

    def as_ray(self) -> dict[str, float]:
        """The resources as Ray counts them; zero ones are left out."""
        named = {"CPU": self.CPU, "GPU": self.GPU, "memory": float(self.memory or 0), **self.custom}
        return {name: amount for name, amount in named.items() if amount}


class Workers(SpecModel):
    """How many workers a job can use, and what one of them needs."""

    min: WorkerCount
    """Fewer than this and the job waits."""
    max: WorkerCount
    """It never holds more than this."""
    resources: Resources = Field(default_factory=Resources)
    """What one worker holds."""
    coupling: Coupling = "tight"
    """How far apart workers may sit: tight = one fast network, modular = islands, loose = anywhere."""

    def cross_check(self) -> Iterator[Finding]:
        yield from min_above_max(self.min, self.max, next_step="Run 'tide plan' to see what each size would do")


class Schedule(SpecModel):
    """When a job starts by itself, again and again."""

    cron: Cron
    """Minute, hour, day of month, month, day of week."""
    timezone: Zone
    """The zone in which the cron line is read; daylight saving follows it."""
    concurrency: Annotated[Literal["forbid", "replace", "allow"], OneOf()] = "forbid"
    """What happens when the last start still runs: skip this one, end the last one, or run both."""
    catch_up: Annotated[Literal["one", "none"], OneOf()] = "one"
    """After an outage: one start for all that were missed, or none."""


def secret_variable(name: str) -> str:
    """The environment variable in which workers find a secret: `s3-key` as S3_KEY."""
    return name.upper().replace("-", "_")


class Runtime(SpecModel):
    """Code and environment of the workers."""

    working_dir: FilePath | None = None
    """A folder of code: copied when the job is submitted, importable in the workers, which run in the copy; none = only
    what is installed."""
    pip: Many[Requirement] = ()
    """Packages to add to those that are installed, which stay as they are."""
    env: Mapping[Word, Text] = Field(default_factory=dict)
    """Environment variables of the workers."""
    secrets: Many[Name] = ()
    """Names of secrets that whoever runs the server keeps; the workers find s3-key in their environment as S3_KEY."""

    @property
    def code(self) -> str | None:
        """The id of code that is kept already, where `working_dir` names such instead of a folder."""
        named = self.working_dir or ""
        return named.removeprefix(CODE_PREFIX) if named.startswith(CODE_PREFIX) else None

    def cross_check(self) -> Iterator[Finding]:
        if self.code is not None and not re.fullmatch(CODE_ID_PATTERN, self.code):
            want = "it must be a folder, or code: and the 64 hex digits of code that is kept"
            yield Finding(("working_dir",), Code.WRONG_VALUE, f"{shown(self.working_dir)} names no code", want)
        yield from repeated(self.secrets, "secrets", key="")
        for at, name in enumerate(self.secrets):
            variable = secret_variable(name)
            if variable in self.env:
                want = f"a secret is the variable {variable}, which runtime.env sets, too"
                yield Finding(("secrets", at), Code.CONFLICT, f"{name!r} would be hidden", want, "Rename one of them")
        for name in self.env:
            if _SECRET_VALUE.search(name):
                want = "values of secrets must not stand in a file"
                step = "Have it put into the server's secrets, and name it under runtime.secrets"
                yield Finding(("env", name), Code.CONFLICT, "holds a secret's value", want, step)


class Budget(SpecModel):
    """The most that may be spent; whichever ends first ends the work."""

    usd: Money | None = None
    """US dollars."""
    device_hours: Positive | None = None
    """Hours of devices held, summed over devices."""
    kwh: Positive | None = None
    """Energy by the pools' power figures."""

    def cross_check(self) -> Iterator[Finding]:
        if not any(getattr(self, key) is not None for key in type(self).model_fields):
            names = ", ".join(type(self).model_fields)
            yield Finding((), Code.EMPTY, "limits nothing", f"it must set at least one of {names}")
        if self.usd == 0:
            yield Finding(("usd",), Code.OUT_OF_BOUNDS, "0 buys nothing", "it must be above 0")


class Data(SpecModel):
    """What is trained on, and in which order."""

    dataset: Reference
    """A packed data set, name@version."""
    seed: Seed = 0
    """Decides the order of samples and every random draw; the world size does not."""


class Batch(SpecModel):
    """How many samples make a step, and how many pass at once."""

    global_batch_size: Count
    """Samples of one optimizer step, the same at every world size."""
    micro_batch_size: Count
    """Samples of one pass on one rank: as many as its memory takes."""

    def cross_check(self) -> Iterator[Finding]:
        names = ("micro_batch_size", "global_batch_size")
        yield from min_above_max(self.micro_batch_size, self.global_batch_size, names=names)


Moment = Annotated[float, real(0, 0.999999)]


class Optimizer(SpecModel):
    """How parameters move. Learning rates follow the step, never the world size."""

    name: Annotated[Literal["adamw"], OneOf()] = "adamw"
    """The update rule."""
    lr: Positive = 3e-4
    """The highest learning rate of the schedule."""
    betas: Many[Moment] = (0.9, 0.95)
    """Decay of the first and the second moment."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NotNegative = 0.1
    """Decoupled weight decay."""
    gradient_clipping: NotNegative = 1.0
    """The largest global norm of the gradient; 0 = never clipped."""
    schedule: Annotated[Literal["constant", "linear", "cosine"], OneOf()] = "constant"
    """How the rate falls after the warm-up."""
    warmup_steps: CountOrZero = 0
    """Steps in which the rate rises from 0."""
    min_lr_ratio: Fraction = 0.1
    """The last rate as a part of lr."""

    def cross_check(self) -> Iterator[Finding]:
        if len(self.betas) != 2:
            yield Finding(("betas",), Code.WRONG_SHAPE, f"is a list of {len(self.betas)}", "it must be a list of 2")
        if self.schedule == "constant":
            yield from without_effect(self, ["min_lr_ratio"], "a constant schedule never falls")


class DeepSpeed(SpecModel):
    """How state is sharded over ranks and in which precision is computed."""

    zero_stage: Annotated[int, whole(0, 3)] = 2
    """What ranks share out: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""
    precision: Precision = "bf16"
    """The number format of parameters and activations; optimizer state is fp32 always."""
    extra: Mapping[str, Free] = Field(default_factory=dict)
    """Further keys of DeepSpeed's configuration, as its documentation names them."""

    def cross_check(self) -> Iterator[Finding]:
        for key in sorted(set(self.extra) & set(_OWN_DEEPSPEED_KEYS)):
            want = f"it follows from {_OWN_DEEPSPEED_KEYS[key]}"
            yield Finding(("extra", key), Code.CONFLICT, "is set by Tideline", want, "Remove it here")
        if self.zero_stage == 0 and self.precision != "fp32":
            what = f"0 shards nothing and trains in fp32 only, and precision is {self.precision}"
            want = "stage 1 shards the optimizer's state and is otherwise the same"
            yield Finding(("zero_stage",), Code.CONFLICT, what, want, "Set zero_stage: 1, or precision: fp32")
        zero: Any = self.extra.get("zero_optimization")
        if isinstance(zero, dict) and "stage" in zero:
            want = "it follows from deepspeed.zero_stage"
            yield Finding(
                ("extra", "zero_optimization", "stage"), Code.CONFLICT, "is set by Tideline", want, "Remove it here"
            )


class Checkpoint(SpecModel):
    """How state is kept: copies in memory every few steps, on storage every few minutes."""

    every: PositiveDuration = 600.0
    """From one write to storage to the next."""
    snapshot_every_steps: Count = 20
    """Steps between two copies in the nodes' shared memory: the most that a killed node costs."""
    keep: Count = 3
    """Checkpoints kept on storage; older ones are removed."""
    storage: StorageUrl | None = None
    """Storage that all nodes share; none = Tideline's state folder on this machine."""
    mirrors: Annotated[int, whole(0, 3)] = 1
    """Other nodes that hold a copy of each snapshot; 0 = a lost node costs back to the last write to storage."""
    keeper_memory: Size | None = None
    """Shared memory for snapshots on each node; none = as much as they need, if the node has it."""


class Gate(SpecModel):
    """What a metric must reach."""

    metric: Word
    """A metric that the task reports."""
    min: Annotated[float, real()] | None = None
    """Reached at or above."""
    max: Annotated[float, real()] | None = None
    """Reached at or below."""

    def cross_check(self) -> Iterator[Finding]:
        if self.min is None and self.max is None:
            yield Finding((), Code.EMPTY, "is no gate", "it must set min, max or both")
        if self.min is not None and self.max is not None:
            yield from min_above_max(self.min, self.max)


class Register(SpecModel):
    """Makes the trained model the next version of a registered one."""

    model: Name
    """The registered model; created when it is new."""
    gate: Gate | None = None
    """Without reaching it, the version is not made."""


class Retries(SpecModel):
    """Starts after failures. Resizes, notices and preemptions are never counted here."""

    failures: CountOrZero = 3
    """Restarts after a worker's own error."""
    preemptions: CountOrZero | None = None
    """Restarts after capacity was taken; none = any number."""
