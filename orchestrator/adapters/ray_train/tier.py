"""Through which of Ray Train's interfaces a run goes: the private seam, or the public tier where that does not hold."""

from __future__ import annotations

import enum
from typing import Any

import structlog

from orchestrator.adapters.ray_train.seam_contract import broken

log = structlog.get_logger(__name__)


class Tier(enum.StrEnum):
    """`auto`: the seam where the installed Ray has all that it stands on."""

    AUTO = "auto"
    SEAM = "seam"
    PUBLIC = "public"


def trainer_of(tier: Tier) -> Any:
    """The trainer's class. Raises: ImportError if the seam is asked for and cannot be had."""
    if tier is Tier.AUTO:
        missing = broken()
        if missing:
            log.warning("the seam to Ray Train does not hold with the installed Ray", missing=list(missing))
        tier = Tier.PUBLIC if missing else Tier.SEAM
    if tier is Tier.PUBLIC:
        from orchestrator.adapters.ray_train.public_tier import PublicTrainer

        return PublicTrainer
    from orchestrator.adapters.ray_train.seam import OfferedTrainer

    return OfferedTrainer
