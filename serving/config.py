"""From an Endpoint's YAML to what the scheduler and the routes need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.spec import Endpoint
from orchestrator.spec.endpoint_tiers import OnlineTier
from serving.http.limits import TenantLimits
from serving.policy import PolicyConfig, Tier, TierTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """What one request of a tier may ask, and for how long it is kept."""

    max_tokens: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRules:
    """What a batch may ask. A file may be larger than other bodies: it is read in pieces."""

    min_window_s: float
    max_window_s: float
    max_rows: int
    max_line_bytes: int
    max_file_bytes: int = 200 * 2**20
    retries: int = 3


def batch_rules(endpoint: Endpoint) -> BatchRules | None:
    """None for an endpoint without the batch tier."""
    batch = endpoint.spec.tiers.batch
    if batch is None:
        return None
    return BatchRules(
        min_window_s=batch.min_window,
        max_window_s=batch.max_window,
        max_rows=batch.max_rows,
        max_line_bytes=endpoint.spec.listen.max_body,
        retries=batch.retries,
    )


def policy_config(endpoint: Endpoint) -> PolicyConfig:
    """The tier scheduler's configuration; a tier that the endpoint leaves out is not offered."""
    engine, batch = endpoint.spec.engine, endpoint.spec.tiers.batch
    targets = {tier: _target(online) for tier, online in _online(endpoint).items()}
    if batch:
        targets[Tier.BATCH] = TierTarget(latency_s=batch.max_window, max_waiting=batch.max_rows)
    keystroke = endpoint.spec.tiers.keystroke
    return PolicyConfig(
        targets=targets,
        prefill_chunk_tokens=engine.prefill_chunk,
        min_chunk_tokens=engine.min_chunk,
        supersede=keystroke.supersede if keystroke else False,
        batch_share=batch.min_share if batch else 0.0,
        batch_step_cap_s=batch.step_cap if batch else math.inf,
        collect_s=batch.collect if batch else 0.0,
        promote_laxity=batch.promote_laxity if batch else 0.0,
    )


def tier_limits(endpoint: Endpoint) -> Mapping[Tier, TierLimits]:
    """Per offered tier, fastest first."""
    limits = {
        tier: TierLimits(max_tokens=online.max_tokens, timeout_s=online.timeout)
        for tier, online in _online(endpoint).items()
    }
    if batch := endpoint.spec.tiers.batch:
        limits[Tier.BATCH] = TierLimits(max_tokens=batch.max_tokens, timeout_s=batch.max_window)
    return limits


def tenant_limits(endpoint: Endpoint) -> TenantLimits:
    """What each tenant may ask of one replica."""
    limits = endpoint.spec.limits
    return TenantLimits(
        requests_per_min=limits.requests_per_min,
        tokens_per_min=limits.tokens_per_min,
        concurrency=limits.concurrency,
    )


def slo_objectives(endpoint: Endpoint) -> Mapping[Tier, float]:
    """Share of requests that must be in time, per tier that promises one."""
    return {tier: online.slo.percentile / 100 for tier, online in _online(endpoint).items()}


def _online(endpoint: Endpoint) -> dict[Tier, OnlineTier]:
    tiers = endpoint.spec.tiers
    named = {Tier.KEYSTROKE: tiers.keystroke, Tier.INTERACTIVE: tiers.interactive}
    return {tier: online for tier, online in named.items() if online is not None}


def _target(online: OnlineTier) -> TierTarget:
    return TierTarget(
        latency_s=online.slo.latency,
        token_s=online.slo.per_token,
        step_cap_s=online.step_cap,
        max_waiting=online.max_queue,
    )
