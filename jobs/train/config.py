"""What a rank is told: its job and its place in the group, as frozen values that travel as JSON.

Nothing has a default here: defaults live in the spec, and whoever builds these has read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from jobs.train.wire import WIRE

Precision = Literal["fp32", "bf16"]
OnNan = Literal["stop", "skip", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate; `gradient_clipping` 0 means off."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    name: Literal["adamw"]
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    gradient_clipping: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    min_lr_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFrom:
    """Which complete state to continue from: the nearest of keepers and storage that has it.

    `step` counts the optimizer steps that the state contains and equals the job's `start_step`. `keepers` False means
    storage only. If that state turns out to be damaged, the ranks agree on an older one and say so (`Restored`).
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    step: int
    keepers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """One attempt of a run, the same for every rank of it.

    Steps count optimizer steps completed: the attempt starts after `start_step` of them and ends after `steps`.
    `restore` None starts from the seed. `keeper_socket` "" means that this node has no keeper: no snapshots, and
    checkpoints go straight to storage. `storage_url` "" means no checkpoints. A `snapshot_every_steps` or
    `checkpoint_every_s` of 0 is never (a stop still saves). `collective_timeout_s` bounds every wait for other ranks.
    `code_paths` are put first in `sys.path`. `ds_extra` is merged into DeepSpeed's configuration.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    run_id: str
    attempt: int
    task: str
    args: dict[str, Any]
    dataset_dir: str
    seed: int
    global_batch_size: int
    micro_batch_size: int
    steps: int
    start_step: int
    zero_stage: Literal[0, 1, 2, 3]
    precision: Precision
    optimizer: OptimizerConfig
    ds_extra: dict[str, Any]
    storage_url: str
    restore: RestoreFrom | None
    snapshot_every_steps: int
    checkpoint_every_s: float
    keeper_socket: str
    on_nan: OnNan
    strict: bool
    code_paths: tuple[str, ...]
    collective_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """Start one rank of a group.

    `master_addr:master_port` is where rank 0 will listen for the others. `env` is added to the starter's environment;
    `cwd` "" keeps its folder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    job: RankJob
    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int
    env: dict[str, str]
    cwd: str
