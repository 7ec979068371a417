"""TIDE_RAY_TRAIN_TIER chooses the way into Ray Train, and only a way that there is."""

from __future__ import annotations

import pytest

from orchestrator.adapters.ray_train.tier import Tier
from orchestrator.cli.tier import tier_from_environment
from orchestrator.spec.errors import ExitCode, UserError


@pytest.mark.parametrize(("named", "tier"), [(None, Tier.AUTO), ("public", Tier.PUBLIC), ("seam", Tier.SEAM)])
def test_the_environment_names_the_tier(monkeypatch: pytest.MonkeyPatch, named: str | None, tier: Tier) -> None:
    monkeypatch.delenv("TIDE_RAY_TRAIN_TIER", raising=False)
    if named:
        monkeypatch.setenv("TIDE_RAY_TRAIN_TIER", named)
    assert tier_from_environment() is tier


def test_a_tier_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDE_RAY_TRAIN_TIER", "pubic")
    with pytest.raises(UserError, match="'pubic' is no tier; it must be one of auto, seam, public") as refused:
        tier_from_environment()
    assert refused.value.code is ExitCode.INVALID
