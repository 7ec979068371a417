"""TIDE_RAY_TRAIN_TIER: through which of Ray Train's interfaces this process trains; read here and nowhere else."""

from __future__ import annotations

import os

from orchestrator.adapters.ray_train.tier import Tier
from orchestrator.spec.errors import ExitCode, UserError

VARIABLE = "TIDE_RAY_TRAIN_TIER"


def tier_from_environment() -> Tier:
    """Raises: UserError for a tier that there is not."""
    named = os.environ.get(VARIABLE, Tier.AUTO)
    try:
        return Tier(named)
    except ValueError:
        raise UserError(
            f"{VARIABLE}: {named!r} is no tier; it must be one of {', '.join(Tier)}",
            code=ExitCode.INVALID,
            next_step=f"Unset it, or export {VARIABLE}={Tier.PUBLIC}",
        ) from None
