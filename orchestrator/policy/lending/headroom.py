"""From the standing of endpoints to the devices that the queues must keep free for them, pool by pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.policy.lending.values import Standing, Terms


def headroom_of(
    endpoints: Iterable[tuple[Terms, Standing]], *, leased: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Devices to be kept free for endpoints: those that serve and those that were called back, less those they lease.

    `leased`: devices for which endpoints hold leases of their own, by pool; these are charged already and must not be
    counted twice. What is lent is not kept: training may have it. Devices that a whole replica cannot use are lent
    for good.
    """
    kept: dict[str, int] = {}
    for terms, standing in endpoints:
        replicas = standing.serving + standing.returning
        assert replicas + standing.lent == terms.replicas, f"{terms.pool}: {standing} is not {terms.replicas} replicas"
        kept[terms.pool] = kept.get(terms.pool, 0) + replicas * terms.devices_per_replica
    own = leased or {}
    return {pool: max(0, devices - own.get(pool, 0)) for pool, devices in kept.items()}
