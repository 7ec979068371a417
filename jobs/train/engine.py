"""A task's model under DeepSpeed: passes that add weighted gradients up, one update a step.

The gradient is the mean over exactly the same samples at every world size: DeepSpeed averages over ranks, so each loss
is multiplied by world size times the micro-batch's weight. Knows nothing of data, steps and state on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import deepspeed
import torch
from torch import Tensor, nn

from jobs.models.task import Task
from jobs.train.building import briefly
from jobs.train.config import RankJob, StartRequest
from jobs.train.deepspeed_config import deepspeed_config
from jobs.train.draws import seed_draws
from jobs.train.pace import NO_PACE, PaceMeter
from orchestrator.spec.errors import UserError


class Engine(Protocol):
    """One rank's share of the model. All methods are called by all ranks in the same order."""

    pace: PaceMeter
    """Measures what this rank computes by itself."""

    @property
    def deepspeed(self) -> Any:
        """What `deepspeed_shards.view_of` makes a view of."""

    def run_pass(self, batch: Mapping[str, Tensor], weight: float, seed: int) -> Tensor:
        """Forward and backward over one micro-batch; returns its part of the step's mean loss, not synchronised.

        `seed` decides every random draw of the pass. A weight of 0 adds nothing but takes part in the collectives.
        """

    def update(self, lr: float) -> bool:
        """Clip by the global norm and move the parameters; False if the norm is not finite: then nothing moved.

        The answer is the same on every rank, because the norm is.
        """

    @property
    def grad_norm(self) -> Tensor | float:
        """Global gradient norm of the last update, before clipping; infinite if it was not finite. May be on the
        device: read it late."""


class ShardedEngine:
    """An `Engine` of DeepSpeed ZeRO."""

    def __init__(self, request: StartRequest, task: Task, device: torch.device) -> None:
        """Build the model from the seed, the same on every rank, and shard it.

        Raises: UserError for a combination that DeepSpeed cannot do.
        """
        require_supported(request.job)
        self._task = task
        self._world_size = request.world_size
        self._zero_stage = request.job.zero_stage
        self._clip_norm = request.job.optimizer.gradient_clipping
        self.device = device
        model = build_model(task, request.job.seed)
        with briefly(state_follows=request.job.restore is not None):
            self.deepspeed, *_ = deepspeed.initialize(
                model=model,
                model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
                config=deepspeed_config(request.job, request.world_size, _num_elements(model)),
                dist_init_required=False,
            )
        self.deepspeed.train()
        if request.job.precision == "bf16":
            # As DeepSpeed does for fp16: a task need not know in which precision it is trained.
            self.deepspeed.module.register_forward_pre_hook(_to_bf16, with_kwargs=True)
        self._norm: Tensor | float = 0.0
        self.pace: PaceMeter = NO_PACE

    def run_pass(self, batch: Mapping[str, Tensor], weight: float, seed: int) -> Tensor:
        seed_draws(seed)
        on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with self.pace.by_itself():
            loss = self._task.loss(self.deepspeed, on_device)
        self.deepspeed.backward(loss * (self._world_size * weight), scale_wrt_gas=False)
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()
        return loss.detach().double() * weight

    def update(self, lr: float) -> bool:
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr
        if self._zero_stage == 0 and not self._prepare_unsharded():
            return False
        self.deepspeed.step()
        if self._zero_stage:
            self._norm = self.deepspeed.get_global_grad_norm()
        return bool(self.deepspeed.was_step_applied())

    @property
    def grad_norm(self) -> Tensor | float:
        return self._norm

    def _prepare_unsharded(self) -> bool:
        """What the ZeRO optimizers do by themselves: the norm, clipping, and no step with an infinite gradient."""
        parameters = [p for p in self.deepspeed.module.parameters() if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not bool(torch.isfinite(self._norm)):
            self._norm = float("inf")
            self.deepspeed.zero_grad()
            self.deepspeed.micro_steps += 1  # this boundary is over
            return False
        if self._clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, self._norm)
        return True


def build_model(task: Task, seed: int) -> nn.Module:
    """The task's model as the seed makes it."""
    seed_draws(seed)
    return task.build_model()


def require_supported(job: RankJob) -> None:
    """Raises: UserError for what DeepSpeed or this engine cannot do."""
    if job.zero_stage == 0 and job.precision != "fp32":
        raise UserError(
            f"deepspeed.zero_stage 0 trains in fp32 only, and precision is {job.precision}",
            next_step="Use zero_stage 1, which shards the optimizer's state and is otherwise the same",
        )


def _to_bf16(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return tuple(_cast(arg) for arg in args), {name: _cast(value) for name, value in kwargs.items()}


def _cast(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value


def _num_elements(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def open_device(accelerator: str, local_rank: int) -> torch.device:
    """This rank's device, initialised here for the first time; never before a fork."""
    if accelerator == "cpu":
        return torch.device("cpu")
    torch.cuda.init()  # whole, so that its generators exist before anything is drawn
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """The vendor's name of the device."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"
