"""From a live endpoint's counters to the demand that lending decides with."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.policy.lending.decide import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """Requests that arrived since a process began, refused ones included, as read at `at_s` from one replica."""

    source: str
    at_s: float
    total: float


def demand_between(before: tuple[Counter, ...], after: tuple[Counter, ...]) -> Sample | None:
    """Requests/s over all replicas between two readings; None without two readings of any replica.

    A counter that fell began anew and counts from 0. A replica that is new or gone gives no rate of its own; its part
    shows in the next reading.
    """
    earlier = {one.source: one for one in before}
    rates = [
        (one.total - was.total if one.total >= was.total else one.total) / (one.at_s - was.at_s)
        for one in after
        if (was := earlier.get(one.source)) is not None and one.at_s > was.at_s
    ]
    if not rates:
        return None
    return Sample(at_s=max(one.at_s for one in after), rps=sum(rates))
