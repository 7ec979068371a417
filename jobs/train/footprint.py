"""How large a task's training state is, told without allocating it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jobs.models.task import Task
from orchestrator.spec.errors import UserError

# The fp32 master and Adam's two moments, whatever the precision of the weights.
BYTES_PER_TRAINED = 12
MAX_STRICT_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """`parameters` trained and frozen; `state_bytes` of a whole snapshot, summed over ranks at any world size."""

    parameters: int
    state_bytes: int


def footprint(task: Task) -> Footprint:
    """Build the task's model on the meta device and count. Raises: whatever `build_model` does there."""
    with torch.device("meta"):
        model = task.build_model()
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    kept = sum(p.nbytes for p in parameters if not p.requires_grad) + sum(b.nbytes for b in model.buffers())
    return Footprint(parameters=sum(p.numel() for p in parameters), state_bytes=trained * BYTES_PER_TRAINED + kept)


def require_small(num_parameters: int) -> None:
    """Raises: UserError for a model that strict mode is not for: each rank would hold its whole optimizer state."""
    if num_parameters > MAX_STRICT_PARAMETERS:
        raise UserError(
            f"strict is for models of up to {MAX_STRICT_PARAMETERS:,} parameters; this one has {num_parameters:,}",
            next_step="Set strict: false",
        )
