"""Training whose every bit is the same at every world size.

DeepSpeed adds a rank's micro-gradients up before it reduces over ranks, so the order of additions, and with it the last
bits, depends on the world size. Here micro-gradients are added one by one in the order of their index: pass j of W
ranks computes micro-batches jW .. jW+W-1, each rank receives its slice of all W gradients and adds them in rank order.
Norm and update work on the whole vector on every rank. That costs a rank the whole optimizer state and W x the
traffic of a ring, so it is for models of up to 50 million parameters. Source of the idea: EasyScale, SC 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jobs.models.task import Task
from jobs.train.config import RankJob, StartRequest
from jobs.train.draws import seed_draws
from jobs.train.engine import build_model
from jobs.train.footprint import require_small
from jobs.train.pace import NO_PACE, PaceMeter
from orchestrator.policy.batch_plan import BatchPlan
from orchestrator.spec.errors import UserError


class StrictEngine:
    """An `Engine` of plain torch: the model and AdamW, whole and the same on every rank."""

    def __init__(self, request: StartRequest, task: Task, device: torch.device) -> None:
        """Raises: UserError for what strict mode cannot do."""
        job = request.job
        # Several threads cut a tensor where their number says, and the ends of the cuts round differently.
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(device.type == "cuda")
        self.module = build_model(task, job.seed).to(device)
        require_strict(job, self.module)
        self.device = device
        self.world_size = request.world_size
        self.global_rank = request.rank
        self.grad_norm = 0.0
        self.optimizer = torch.optim.AdamW(
            self._parameters(),
            lr=job.optimizer.lr,
            betas=job.optimizer.betas,
            eps=job.optimizer.eps,
            weight_decay=job.optimizer.weight_decay,
            fused=False,
            foreach=False,
        )
        self._task = task
        self._clip_norm = job.optimizer.gradient_clipping
        self._plan = BatchPlan(job.global_batch_size, job.micro_batch_size)
        self._sum = OrderedSum(sum(p.numel() for p in self._parameters()), request.world_size, device)
        self._pass = 0
        self._loss = 0.0
        self.pace: PaceMeter = NO_PACE

    @property
    def deepspeed(self) -> StrictEngine:
        """This engine answers the questions that `deepspeed_shards.view_of` asks one of DeepSpeed's."""
        return self

    def zero_optimization_stage(self) -> int:
        return 1

    def bfloat16_enabled(self) -> bool:
        return False

    def run_pass(self, batch: Mapping[str, Tensor], weight: float, seed: int) -> Tensor:
        """As `Engine.run_pass`; the loss comes whole, with the step's last pass, on rank 0."""
        seed_draws(seed)
        on_device = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with self.pace.by_itself():
            loss = self._task.loss(self.module, on_device)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * weight).backward()
        first = self._pass * self.world_size
        counted = min(self.world_size, self._plan.num_micro_batches - first)
        self._sum.add(flatten_gradients(self._parameters()), counted)
        for part in gather_scalars(float(loss.detach()) * weight, self.world_size, self.device)[:counted]:
            self._loss += part
        self._pass += 1
        whole = self._loss if self._pass == self._plan.passes(self.world_size) and self.global_rank == 0 else 0.0
        return torch.tensor(whole, dtype=torch.float64)

    def update(self, lr: float) -> bool:
        """As `Engine.update`."""
        write_gradients(self._parameters(), self._sum.take())
        self._pass, self._loss = 0, 0.0
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters() if p.grad is not None], foreach=False)
        self.grad_norm = float(norm) if bool(torch.isfinite(norm)) else float("inf")
        if self.grad_norm == float("inf"):
            return False
        if self._clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self._parameters(), self._clip_norm, norm, foreach=False)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return True

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


class OrderedSum:
    """Adds the ranks' vectors in rank order, pass after pass: one fixed order of additions for any number of ranks.

    Each rank keeps one slice of the sum; additions are exact IEEE operations on single elements, so it does not matter
    where the slices are cut.
    """

    def __init__(self, num_elements: int, world_size: int, device: torch.device) -> None:
        self._num_elements = num_elements
        self._world_size = world_size
        self._slice = -(-num_elements // world_size)
        self._mine = torch.zeros(self._slice, device=device)

    def add(self, vector: Tensor, counted: int) -> None:
        """Add this pass's vectors of ranks 0..counted-1; collective."""
        padded = torch.nn.functional.pad(vector, (0, self._slice * self._world_size - self._num_elements))
        received = torch.empty_like(padded)
        dist.all_to_all_single(received, padded)
        for rank in range(counted):
            self._mine += received[rank * self._slice : (rank + 1) * self._slice]

    def take(self) -> Tensor:
        """The whole sum, on every rank, and start anew; collective."""
        whole = self._mine.new_empty(self._slice * self._world_size)
        dist.all_gather_into_tensor(whole, self._mine)
        self._mine.zero_()
        return whole[: self._num_elements]


def require_strict(job: RankJob, model: nn.Module) -> None:
    """Raises: UserError saying which of strict mode's conditions does not hold."""
    if job.zero_stage != 1 or job.precision != "fp32":
        raise UserError(
            f"strict needs zero_stage 1 and precision fp32, not {job.zero_stage} and {job.precision}",
            next_step="Change deepspeed.zero_stage and deepspeed.precision, or set strict: false",
        )
    require_small(sum(parameter.numel() for parameter in model.parameters()))


def flatten_gradients(parameters: list[nn.Parameter]) -> Tensor:
    """All gradients as one vector; zeros where a parameter got none."""
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])


def write_gradients(parameters: list[nn.Parameter], vector: Tensor) -> None:
    """The inverse of `flatten_gradients`."""
    at = 0
    for parameter in parameters:
        parameter.grad = vector[at : at + parameter.numel()].view_as(parameter).clone()
        at += parameter.numel()


def gather_scalars(value: float, world_size: int, device: torch.device) -> list[float]:
    """Every rank's value, in rank order; collective."""
    every = torch.empty(world_size, dtype=torch.float64, device=device)
    dist.all_gather_into_tensor(every, torch.tensor([value], dtype=torch.float64, device=device))
    return [float(one) for one in every]
