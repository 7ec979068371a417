"""When a version on trial is taken back, and whom it answers."""

from __future__ import annotations

import dataclasses

import pytest

from serving.policy.canary import (
    CanaryRules,
    Keep,
    RollBack,
    RollbackReason,
    VersionCounts,
    judge,
    takes_canary,
)

RULES = CanaryRules(weight=0.1, error_rate=0.02, burn_rate=6.0, after_s=300.0)
HEALTHY = VersionCounts(requests=1000, failed=2, missed_slo=5)


@pytest.mark.parametrize(
    ("canary", "watched_s", "reason"),
    [
        (VersionCounts(requests=100, failed=0, missed_slo=1), 600.0, None),
        (VersionCounts(requests=100, failed=5), 600.0, RollbackReason.ERRORS),
        (VersionCounts(requests=100, missed_slo=10), 600.0, RollbackReason.SLO_BURN),
        (VersionCounts(requests=100, failed=3), 10.0, None),  # may still be chance
        (VersionCounts(requests=30, failed=30), 1.0, RollbackReason.ERRORS),  # cannot be
        (VersionCounts(requests=5, failed=5), 600.0, None),  # too few to say anything
    ],
)
def test_a_canary_is_taken_back_for_doing_worse_than_allowed(
    canary: VersionCounts, watched_s: float, reason: RollbackReason | None
) -> None:
    verdict = judge(HEALTHY, canary, RULES, watched_s=watched_s)
    assert (verdict.reason if isinstance(verdict, RollBack) else None) == reason


def test_a_canary_is_not_blamed_for_what_the_stable_version_suffers_too() -> None:
    suffering = VersionCounts(requests=1000, failed=300, missed_slo=500)
    canary = VersionCounts(requests=100, failed=31, missed_slo=52)
    assert judge(suffering, canary, RULES, watched_s=600.0) == Keep()


def test_the_weight_is_the_share_of_requests_and_the_same_ids_every_time() -> None:
    ids = [f"request-{i}" for i in range(20_000)]
    chosen = {i for i in ids if takes_canary(i, 0.1)}
    assert len(chosen) / len(ids) == pytest.approx(0.1, abs=0.01)
    assert chosen == {i for i in reversed(ids) if takes_canary(i, 0.1)}
    assert chosen <= {i for i in ids if takes_canary(i, 0.3)}
    assert all(takes_canary(i, 1.0) for i in ids)
    assert not any(takes_canary(i, 0.0) for i in ids)


def test_counting_one_more_request_changes_only_what_happened() -> None:
    counted = HEALTHY.plus(failed=True, missed_slo=False)
    assert counted == dataclasses.replace(HEALTHY, requests=1001, failed=3)
